"""`network.json` in a data folder: what a second terminal needs to use the local network that runs there.

Holds addresses, URLs and paths, never a key. Written by `market.devnet.network`, read by the commands.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from market.errors import ConfigurationError

FILENAME = "network.json"


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """Where the parts of a local network are; `keystores` by role."""

    gateway_url: str
    rpc_url: str
    chain_id: int
    deployment: str
    redis_url: str
    database_url: str
    model: str
    keystores: dict[str, str]
    password_file: str
    pid: int

    def save(self, data_dir: Path) -> None:
        """Write the file whole or not at all."""
        draft = data_dir / f".{FILENAME}"
        draft.write_text(json.dumps(asdict(self), indent=2) + "\n")
        draft.replace(data_dir / FILENAME)

    @classmethod
    def load(cls, data_dir: Path) -> NetworkFile | None:
        """Read a data folder's file; None if there is none.

        Raises:
            ConfigurationError: the file is damaged.
        """
        path = data_dir / FILENAME
        try:
            raw = json.loads(path.read_text())
            return cls(**{field.name: raw[field.name] for field in fields(cls)})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{path} is damaged.", field="data-dir", remedy="Stop `market up` and start it again."
            ) from error
