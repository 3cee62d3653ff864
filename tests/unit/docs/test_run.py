"""Every command and program of the documents is run by a test: the blocks, the commands named in a sentence, the targets."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import BLOCK, ELSEWHERE, PAGES, ROOT, RUN, SHOWN, Reading, commands, pieces

TESTS = ROOT / "tests"
INLINE = re.compile(r"`((?:market|worker)\s[a-z][^`]*)`")
MODULE = re.compile(r"`python -m (benchmarks\.\w+)")
# Commands that stand in a sentence and in no block, with a test that runs each.
NAMED = {
    "market audit": "integration/commands/test_money_commands.py",
    "market audits list": "unit/market/gateway/test_audits.py",
    "market audits pardon": "unit/market/gateway/test_audits.py",
    "market audits show": "unit/market/gateway/test_audits.py",
    "market channel exit": "integration/commands/test_money_commands.py",
    "market channel refund": "integration/commands/test_money_commands.py",
    "market channel status": "e2e/test_local_network.py",
    "market channel topup": "integration/commands/test_money_commands.py",
    "market channel withdraw": "integration/commands/test_money_commands.py",
    "market earnings": "integration/commands/test_money_commands.py",
    "market jobs": "e2e/test_several_gateways.py",
    "market model earnings": "integration/commands/test_money_commands.py",
    "market model pack": "unit/market/cli/test_commands.py",
    "market model update": "integration/commands/test_money_commands.py",
    "market withdraw": "integration/commands/test_money_commands.py",
    "worker doctor": "e2e/test_operator.py",
    "worker drain": "e2e/test_documented_commands.py",
    "worker stake": "e2e/test_documented_commands.py",
    "worker unstake": "e2e/test_documented_commands.py",
    "worker withdraw": "e2e/test_documented_commands.py",
}


def readings() -> list[Reading]:
    """Return what tests open, as their sources say it."""
    found = []
    for path in TESTS.rglob("test_*.py"):
        if "Reading(" in (text := path.read_text(encoding="utf-8")) and path != Path(__file__):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Reading":
                    given = {word.arg: ast.literal_eval(word.value) for word in node.keywords}
                    found.append(Reading(*map(ast.literal_eval, node.args), **given))
    return found


def described(text: str) -> list[str]:
    """Return the commands of our programs that a text names, without their arguments."""
    found = []
    for words in (line.split() for line in text.splitlines()):
        groups = {"market": ("audits", "channel", "keys", "model", "receipts", "wallet"), "worker": ()}
        names = words[: 3 if words[1] in groups[words[0]] else 2]
        found += [" ".join((*names[:-1], last)) for last in names[-1].split("|")]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_kind_that_is_run_or_that_runs_nothing(page):
    for language, block in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        assert language in (*RUN, *SHOWN), f"{page}: nobody runs blocks of {language!r}"
        if language == "json":
            json.loads(block)
        if language in SHOWN:
            assert "$ " not in block, f"{page}: a command stands in a block that nobody runs"


def test_every_piece_is_opened_by_a_test_or_tested_elsewhere():
    opened = {(one.page, piece) for one in readings() for piece in one.pieces}
    said = {(page, piece) for page in PAGES for kind in RUN for piece in pieces(page, kind)}
    assert [piece for piece in sorted(said - opened) if piece[1] not in ELSEWHERE] == []
    assert set(ELSEWHERE) - {piece for _, piece in said} == set(), "an exception that no document needs"


@pytest.mark.parametrize("place", [*ELSEWHERE.values(), *NAMED.values()])
def test_what_is_tested_elsewhere_is_there(place):
    file, _, name = place.partition("::")
    assert f"def {name}" in (TESTS / file).read_text(encoding="utf-8")


def test_every_command_in_a_sentence_is_run_by_a_test():
    typed = set()
    for page in PAGES:
        for line in (one.removeprefix(".venv/bin/") for one in commands(page)):
            if line.startswith(("market ", "worker ")):
                typed |= set(described(line))
    named = set()
    for page in PAGES:
        for line in INLINE.findall(BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))):
            named |= set(described(" ".join(line.split())))
    assert sorted(named - typed - set(NAMED)) == []
    assert sorted(set(NAMED) - (named - typed)) == [], "an entry that no sentence needs"
    for command, place in NAMED.items():
        words = command.split()
        text = (TESTS / place).read_text(encoding="utf-8")
        assert command in text or re.search(r'",\s*"'.join(words[1:]), text), f"{place} does not run `{command}`"


TARGETS = sorted(
    {
        target
        for page in PAGES
        for words in re.findall(
            r"(?:`|^\$ )make ([a-z][a-z -]*)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE
        )
        for target in words.split()
    }
)


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_how_to_make_each_target(target):
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_make_test_runs_everything():
    done = subprocess.run(["make", "--dry-run", "test"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    for part in ("ruff check", "mypy", "toolchain/forge test", "--dist loadfile --no-loadscope-reorder tests"):
        assert part in done.stdout


@pytest.mark.parametrize(
    "module", sorted({name for page in PAGES for name in MODULE.findall((ROOT / page).read_text())})
)
def test_the_benchmarks_that_are_named_start(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
