"""The list of what the project is made of, and what is said of it where advisories can and cannot be had."""

import importlib.util
import io
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def supply(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("supply", ROOT / ".ci" / "supply.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SBOM", tmp_path / "sbom.json")
    python = {"type": "library", "bom-ref": "x-1", "name": "x", "version": "1", "purl": "pkg:pypi/x@1"}
    module.SBOM.write_text(json.dumps(module.add_npm({"bomFormat": "CycloneDX", "components": [python]})))
    return module


def test_it_names_each_package_of_every_shipped_lock_file_once(supply):
    found = json.loads(supply.SBOM.read_text())["components"]
    purls = [component["purl"] for component in found]
    assert len(purls) == len(set(purls))
    assert purls[0] == "pkg:pypi/x@1"
    for lock in supply.NPM_LOCKS:
        for place in json.loads((ROOT / lock).read_text())["packages"]:
            name = place.rpartition("node_modules/")[2]
            assert not name or any(component["name"] == name for component in found)
    by_name = {component["name"]: component for component in found}
    assert by_name["preact"]["scope"] == by_name["@openzeppelin/contracts"]["scope"] == "required"
    assert by_name["axe-core"]["scope"] == "excluded"
    assert len(by_name["preact"]["hashes"][0]["content"]) == 128


@pytest.mark.parametrize(("vulns", "status"), [([], 0), ([{"id": "GHSA-1"}, {"id": "PYSEC-2"}], 1)])
def test_advisories_are_printed_and_fail_the_run(supply, monkeypatch, capsys, vulns, status):
    def answer(request, timeout):
        queries = json.loads(request.data)["queries"]
        said = [{"vulns": vulns} if one["package"]["purl"] == "pkg:pypi/x@1" else {} for one in queries]
        return io.BytesIO(json.dumps({"results": said}).encode())

    monkeypatch.setattr(supply.urllib.request, "urlopen", answer)
    assert supply.audit(supply.OSV) == status
    assert ("pkg:pypi/x@1: GHSA-1, PYSEC-2" in capsys.readouterr().out) == bool(status)


def test_where_osv_is_not_reached_nothing_is_claimed(supply, monkeypatch, capsys):
    def away(request, timeout):
        raise OSError("no route")

    monkeypatch.setattr(supply.urllib.request, "urlopen", away)
    assert supply.audit(supply.OSV) == 2
    assert "Nothing was audited" in capsys.readouterr().err
