"""Where the contracts live, by chain id: one JSON file a chain beside this module, or any file of the same form.

Pure reading and writing of files; whether code stands at an address is checked by `contracts.bindings.deploy`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path

from contracts.protocol.errors import CodedError, ProtocolError
from contracts.protocol.hexes import address_from_hex, checksum


class NoDeployment(CodedError):
    """No addresses are known for a chain, or their file is malformed."""

    code = "no-deployment"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The contracts of one market on one chain; `block` is where the indexer may start."""

    chain_id: int
    token: bytes
    escrow: bytes
    worker_registry: bytes
    model_registry: bytes
    disputes: bytes
    block: int = 0

    def contracts(self) -> dict[str, bytes]:
        """Return the contracts' addresses by name."""
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), bytes)}

    def save(self, path: Path) -> None:
        """Write the addresses as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {
            f.name: checksum(value) if isinstance(value := getattr(self, f.name), bytes) else value
            for f in fields(self)
        }
        path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def load(chain_id: int, path: Path | None = None) -> Deployment:
    """Read a deployment from `path`, or the one published for `chain_id`.

    Raises:
        NoDeployment: there is none, it is malformed, or it is another chain's.
    """
    try:
        text = (
            path.read_text(encoding="utf-8")
            if path is not None
            else files(__name__).joinpath(f"{chain_id}.json").read_text(encoding="utf-8")
        )
    except OSError as error:
        where = str(path) if path is not None else f"chain {chain_id}"
        raise NoDeployment(
            f"no contract addresses for {where}.", field="deployment", remedy="Run `market deploy`, or name its file."
        ) from error
    try:
        raw = json.loads(text)
        found = Deployment(
            chain_id=int(raw["chain_id"]),
            block=int(raw.get("block", 0)),
            **{
                name: address_from_hex(raw[name], field=name)
                for name in ("token", "escrow", "worker_registry", "model_registry", "disputes")
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError, ProtocolError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise NoDeployment(
            f"the deployment file is malformed: {said}.",
            field="deployment",
            remedy="Name one that `market deploy` wrote.",
        ) from error
    if found.chain_id != chain_id:
        raise NoDeployment(
            f"the deployment is for chain {found.chain_id}, not {chain_id}.",
            field="deployment",
            remedy="Make chain id and deployment name the same network.",
        )
    return found
