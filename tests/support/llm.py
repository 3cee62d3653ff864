"""Where a real language model for tests lies: not in the repository, so tests that want it skip without it."""

import os
from pathlib import Path

NAME = "SmolLM2-135M-Instruct-int4"


def find() -> Path | None:
    """Return the folder that MARKET_TEST_LLM names, or `../shared/models/SmolLM2-135M-Instruct-int4`, if it is there."""
    named = os.environ.get("MARKET_TEST_LLM")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "models" / NAME
    return folder if (folder / "genai_config.json").is_file() else None
