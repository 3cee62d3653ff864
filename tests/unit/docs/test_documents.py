"""What the documents say is there is there: settings as the programs read them, links that lead somewhere."""

import importlib.util
import json
import pathlib
import re
from urllib.parse import urlsplit

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return maker


@pytest.mark.parametrize(
    ("maker", "page"), [("make_settings", "settings.md"), ("make_worker_errors", "worker-errors.md")]
)
def test_generated_pages_say_what_the_classes_say(maker, page):
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == load(maker).build(), "run `make docs`"


def test_the_gas_page_says_what_the_snapshot_says():
    page = (ROOT / "docs" / "gas.md").read_text(encoding="utf-8")
    snapshot = json.loads((ROOT / "tests" / "solidity" / "snapshots" / "Settlement.json").read_text(encoding="utf-8"))
    assert [name for name, gas in snapshot.items() if f"{int(gas):,}" not in page] == []


def test_no_two_worker_errors_share_a_code():
    codes = [kind.code for kind in load("make_worker_errors").catalogue()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_links_to_other_hosts_are_whole():
    """Nobody follows them here; each has a scheme that nobody reads along the way, and a host."""
    local = ("127.0.0.1", "localhost")
    for page in PAGES:
        for target in re.findall(r"\]\((\w+://[^)]*)\)", page.read_text(encoding="utf-8")):
            parts = urlsplit(target)
            assert parts.hostname in local or (parts.scheme == "https" and "." in (parts.hostname or "")), target
            assert target.isascii(), target
            assert " " not in target, target


def test_no_document_names_a_path_of_somebodys_machine():
    for page in PAGES:
        assert not re.search(r"/(?:work|home|root)/\w", page.read_text(encoding="utf-8")), page.name


@pytest.mark.parametrize("package", ["contracts", "market", "workers"])
def test_type_checkers_of_other_projects_read_our_types(package):
    assert (ROOT / package / "py.typed").is_file()
