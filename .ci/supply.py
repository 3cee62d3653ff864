"""What the project is made of, and whether any of it is known to be broken: `make sbom` and `make audit`.

`sbom` adds to uv's list of the locked Python packages those of npm: what the console's bundle and the contracts are
built from, by their lock files. `audit` asks OSV for advisories on every package of the list: exit status 1 if there
are any, 2 if OSV cannot be reached and so nothing was looked up. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SBOM = ROOT / "sbom.cdx.json"
NPM_LOCKS = ("console/package-lock.json", "contracts/package-lock.json")
# In a bundle or in bytecode that is shipped, although npm calls it a tool of development.
SHIPPED = frozenset({"@openzeppelin/contracts"})
OSV = "https://api.osv.dev/v1/querybatch"
SECONDS = 30


def npm_components(lock: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a package-lock's packages as CycloneDX components; tools that are not shipped have scope `excluded`."""
    found = []
    for place, package in sorted(lock["packages"].items()):
        if not place:
            continue
        name = package.get("name") or place.rpartition("node_modules/")[2]
        algorithm, _, digest = package.get("integrity", "").partition("-")
        purl = f"pkg:npm/{urllib.parse.quote(name)}@{package['version']}"
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": package["version"],
            "purl": purl,
            "scope": "excluded" if package.get("dev") and name not in SHIPPED else "required",
        }
        if algorithm == "sha512":
            component["hashes"] = [{"alg": "SHA-512", "content": base64.b64decode(digest).hex()}]
        if isinstance(package.get("license"), str):
            component["licenses"] = [{"license": {"name": package["license"]}}]
        found.append(component)
    return found


def add_npm(bom: dict[str, Any]) -> dict[str, Any]:
    """Return the list with npm's packages in it, each once."""
    found = {component.get("bom-ref", component["name"]): component for component in bom.get("components", [])}
    for name in NPM_LOCKS:
        for component in npm_components(json.loads((ROOT / name).read_text(encoding="utf-8"))):
            known = found.get(component["bom-ref"])
            if known is None or known.get("scope") == "excluded":
                found[component["bom-ref"]] = component
    return {**bom, "components": list(found.values())}


def advisories(bom: dict[str, Any], url: str) -> dict[str, list[str]]:
    """Return the ids of the advisories on each package that has any.

    Raises:
        OSError: the service cannot be reached.
        ValueError: it answers something else.
    """
    purls = sorted({component["purl"] for component in bom["components"] if "purl" in component})
    body = json.dumps({"queries": [{"package": {"purl": purl}} for purl in purls]}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        results = json.load(answer)["results"]
    if len(results) != len(purls):
        raise ValueError(f"{len(results)} answers to {len(purls)} questions")
    pairs = zip(purls, results, strict=True)
    return {purl: [one["id"] for one in found["vulns"]] for purl, found in pairs if found.get("vulns")}


def audit(url: str) -> int:
    """Print the advisories; return the exit status."""
    bom = json.loads(SBOM.read_text(encoding="utf-8"))
    try:
        found = advisories(bom, url)
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "reason", error)
        print(
            f"Nothing was audited: {url} does not answer ({reason}). Run this where the internet is.", file=sys.stderr
        )
        return 2
    for purl, ids in found.items():
        print(f"{purl}: {', '.join(ids)}")
    print(f"{len(bom['components'])} packages, {len(found)} with advisories.")
    return 1 if found else 0


def main() -> int:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("sbom", "audit"))
    parser.add_argument("--url", default=OSV, help="an OSV server's querybatch")
    given = parser.parse_args()
    if given.what == "audit":
        return audit(given.url)
    SBOM.write_text(json.dumps(add_npm(json.load(sys.stdin)), indent=1) + "\n", encoding="utf-8")
    print(SBOM.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
