"""What the documents tell somebody to type or to run, taken piece by piece by the tests that do it.

A piece is a line of a console block (`$ …`) or a whole block of a program. A test opens a page's pieces by `Reading`, takes
them in their order and fails if one is left over; tests/unit/docs/test_run.py holds that every piece is opened by a test.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Languages of blocks that somebody runs; blocks of others show something.
RUN = ("console", "python")
SHOWN = ("", "json")
# Pieces that no test can type as they stand: what is tested instead.
ELSEWHERE = {
    "make demo": "e2e/test_local_network.py::test_the_demonstration_verifies_everything_and_leaves_nothing",
    "make test": "unit/docs/test_run.py::test_make_test_runs_everything",
    ".venv/bin/market up": "e2e/test_local_network.py::test_a_second_terminal_works_and_state_outlives_a_restart",
    "TELEGRAM_TOKEN=… MARKET_KEY=mk_… MARKET_MODEL=writer python docs/examples/telegram_bot.py": (
        "clients/openai/test_telegram_bot.py::test_chats_are_answered_and_paid_for_within_their_limits"
    ),
}


def blocks(page: str, *languages: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for language, block in BLOCK.findall(text) if language in languages]


def commands(page: str) -> list[str]:
    """Return what a page says to type, each with what goes on in the next line and without its comment."""
    lines = [line for block in blocks(page, "console") for line in block.replace("\\\n", " ").splitlines()]
    said = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [re.sub(r"\s+", " ", re.sub(r"\s{2,}#\s.*$", "", line)).strip() for line in said]


def pieces(page: str, kind: str) -> list[str]:
    return commands(page) if kind == "console" else blocks(page, kind)


class Reading:
    """A page's pieces of one kind that start with `of`, or that do not start with `but`."""

    def __init__(self, page: str, kind: str, *, of: str = "", but: str | None = None) -> None:
        self.page, self.kind = page, kind
        self.pieces = [
            one
            for one in pieces(page, kind)
            if one not in ELSEWHERE and one.startswith(of) and not (but and one.startswith(but))
        ]
        self._todo = list(self.pieces)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            assert self._todo == [], f"{self.page}: nobody has run these"

    def __iter__(self):
        while self._todo:
            yield self._todo.pop(0)

    def next(self, start: str) -> str:
        """Take the next piece, which starts so."""
        one = self._todo.pop(0)
        assert one.startswith(start), one
        return one
