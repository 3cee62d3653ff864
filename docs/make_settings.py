"""Write settings.md from the two settings classes: one table each. Run `make docs` after a change of a setting."""

from __future__ import annotations

import pathlib
from typing import Any

from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from market.settings import MarketSettings
from workers.settings import WorkerSettings

HEAD = """# Settings

Every program reads its settings from the environment, or from a file of `NAME=value` lines named by `--env-file`; the
environment wins. A value out of bounds stops the program at once with the setting's name. Amounts are atomic token units:
1,000,000 is one dollar.
"""


def table(kind: type[BaseSettings], title: str) -> str:
    """Return one class as a Markdown section."""
    prefix = kind.model_config["env_prefix"]
    rows = [f"\n## {title}\n", "| setting | default | meaning |", "|---|---|---|"]
    for name, field in kind.model_fields.items():
        default = "" if field.default_factory is not None else _default(field.default)
        rows.append(f"| `{prefix}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    return "" if value in (None, "") else f"`{value}`"


def build() -> str:
    """Return the whole document."""
    return (
        HEAD
        + table(MarketSettings, "Gateway and jobs (`market serve`, `market jobs`)")
        + table(WorkerSettings, "Worker (`worker run` and the other worker commands)")
    )


if __name__ == "__main__":
    pathlib.Path(__file__).with_name("settings.md").write_text(build(), encoding="utf-8")
