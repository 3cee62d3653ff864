"""The tests that the documents name exist: a threat whose test was renamed or dropped is no longer held."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TESTS = ROOT / "tests"
NAMED = re.compile(r"`([\w/.-]*)::(\w+)`")
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md") if "::" in path.read_text())


def missing(page: str):
    """Yield what a page names and nobody defines; a name without its file is of a file named before in its section."""
    for section in (ROOT / page).read_text().split("\n## "):
        files: list[str] = []
        for file, test in NAMED.findall(section):
            if file:
                files.append(file)
            if not any(re.search(rf"\b(def|function) {test}\(", source(one)) for one in ([file] if file else files)):
                yield f"{file}::{test}"


def source(file: str) -> str:
    name = file if file.endswith(".sol") else f"{file}.py"
    found = [path for path in (TESTS / name, TESTS / "conformance" / name) if path.is_file()]
    found = found or sorted(TESTS.glob(f"*/**/{name}"))
    assert len(found) == 1, f"{file} names {len(found)} files"
    return found[0].read_text()


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page):
    assert list(missing(page)) == []


def test_every_trap_and_attack_has_a_test():
    text = (ROOT / "docs" / "security.md").read_text()
    for heading in ("Traps of the x402 SDKs", "Attacks seen elsewhere", "Threats at the link and the broker"):
        section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
        assert len(rows) >= 12, heading
        assert all("test_" in row.rsplit("|", 2)[1] or "testFuzz_" in row.rsplit("|", 2)[1] for row in rows), heading
