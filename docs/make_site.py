"""Build the documents as a site in build/site; the build fails on a link that leads nowhere. Run by `make site`.

The pages are those of docs/ and the README; two references are written here: the protocol from the contracts' NatSpec
and the Python that gateway and worker share, the API from the gateway's OpenAPI description. A link to a file that is
no page stays as its name. The site asks no other host for anything.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from contracts.protocol import messages, typed_data

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)[^>]+src=["']?https?://|<link[^>]+rel=["']?(?:stylesheet|preload|icon|preconnect)[^>]*href=["']?https?://"""
)
_DECLARATION = re.compile(r"^(function|event|error|struct|enum)\s+(\w+)")


def main() -> int:
    """Write the pages and build the site; returns the exit status."""
    shutil.rmtree(PAGES, ignore_errors=True)
    sources = {path.relative_to(ROOT / "docs"): path for path in sorted((ROOT / "docs").rglob("*.md"))}
    sources = {
        (name.with_name("index.md") if name.name == "README.md" else name): path for name, path in sources.items()
    }
    sources |= {pathlib.Path("index.md"): ROOT / "README.md", pathlib.Path("contributing.md"): ROOT / "CONTRIBUTING.md"}
    sources |= {pathlib.Path("changelog.md"): ROOT / "CHANGELOG.md"}
    places = {path: name for name, path in sources.items()}
    for name, path in sources.items():
        _write(
            name,
            _LINK.sub(lambda link, path=path, name=name: _linked(link, path, name, places), path.read_text("utf-8")),
        )
    _write(pathlib.Path("protocol.md"), protocol())
    _write(pathlib.Path("api.md"), api())
    decisions = sorted(path.name for path in (ROOT / "docs" / "adr").glob("*.md"))
    rows = [
        f"- [{(ROOT / 'docs' / 'adr' / name).read_text('utf-8').splitlines()[0].lstrip('# ')}]({name})"
        for name in decisions
    ]
    _write(pathlib.Path("adr/index.md"), "# Decisions\n\n" + "\n".join(rows) + "\n")
    for picture in [*(ROOT / "docs").glob("*.svg"), *(ROOT / "docs" / "images").glob("*")]:
        target = PAGES / picture.relative_to(ROOT / "docs")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, target)
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--config-file",
        str(ROOT / "mkdocs.yml"),
    ]
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False).returncode
    if status:
        return status
    for page in SITE.rglob("*.html"):
        if _FETCHED.search(page.read_text("utf-8")):
            sys.stderr.write(f"{page} fetches something from another host\n")
            return 1
    return 0


def _write(name: pathlib.Path, text: str) -> None:
    (PAGES / name).parent.mkdir(parents=True, exist_ok=True)
    (PAGES / name).write_text(text, encoding="utf-8")


def _linked(
    link: re.Match[str], path: pathlib.Path, name: pathlib.Path, places: dict[pathlib.Path, pathlib.Path]
) -> str:
    picture, text, target = link.groups()
    address, hash_, anchor = target.partition("#")
    if re.match(r"[a-z]+:", target) or not address:
        return link[0]
    meant = (path.parent / address).resolve()
    if meant == ROOT / "docs" / "adr":
        meant_name: pathlib.Path | None = pathlib.Path("adr/index.md")
    elif picture or meant.suffix == ".svg":
        meant_name = meant.relative_to(ROOT / "docs") if meant.is_relative_to(ROOT / "docs") else None
    else:
        meant_name = places.get(meant)
    if meant_name is not None:
        return f"{picture}[{text}]({os.path.relpath(meant_name, name.parent)}{hash_}{anchor})"
    if not meant.exists():
        return link[0]  # a dead link: mkdocs says so
    return f"{text} (`{meant.relative_to(ROOT)}`)" if text.strip("`") not in str(meant) else text


def protocol() -> str:
    """Return the reference of what gateway, worker, client and contracts agree on."""
    out = [
        "# Protocol reference\n\nWritten from the code by `make site`. What each digest is over is pinned by `tests/parity/vectors.json`.\n"
    ]
    out.append("## What is signed\n")
    out.extend(_class(kind, getattr(kind, "FIELDS", None)) for kind in _classes(typed_data))
    out.append("## What travels between gateway and worker\n")
    out.append((messages.__doc__ or "") + "\n")
    out.extend(_class(kind, None) for kind in _classes(messages))
    out.append("## Contracts\n")
    out.extend(natspec(path) for path in sorted((ROOT / "contracts" / "src" / "interfaces").glob("*.sol")))
    return "\n".join(out)


def _classes(module: ModuleType) -> list[type]:
    """Return a module's own public dataclasses in their order."""
    return [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and dataclasses.is_dataclass(kind)
        and kind.__module__ == module.__name__
        and not kind.__name__.startswith("_")
    ]


def _class(kind: type, typed: Any) -> str:
    doc = "\n".join(line.strip() for line in (kind.__doc__ or "").splitlines())
    pairs = typed or [(field.name, str(field.type)) for field in dataclasses.fields(kind)]
    rows = "\n".join(f"| `{name}` | `{what}` |".replace(" | None`", " or None`") for name, what in pairs)
    return f"### {kind.__name__}\n\n{doc}\n\n| field | type |\n|---|---|\n{rows}\n"


def natspec(path: pathlib.Path) -> str:
    """Return the functions, events and errors of one interface with their NatSpec."""
    out, comment, declared = [f"### {path.stem}\n"], [], ""
    for line in (raw.strip() for raw in path.read_text("utf-8").splitlines()):
        if line.startswith("///"):
            comment.append(line[3:].strip())
            continue
        if line.startswith("interface"):
            out.append(_prose([text for text in comment if not text.startswith("@title")]))
            comment = []
        elif declared or _DECLARATION.match(line):
            declared = f"{declared} {line}".strip()
            if not declared.startswith(("struct", "enum")) and not line.endswith(";"):
                continue
            found = _DECLARATION.match(declared)
            assert found is not None
            if found[1] in ("function", "event", "error"):
                out.append(f"#### {found[1]} {found[2]}\n\n```solidity\n{declared}\n```\n")
            else:
                out.append(f"#### {found[1]} {found[2]}\n")
            out.append(_prose(comment))
            comment, declared = [], ""
        elif line:
            comment = []
    return "\n".join(out)


def _prose(comment: list[str]) -> str:
    text = " ".join(comment).replace("<", "&lt;")
    parts = [
        part.strip()
        for part in re.split(r"(?=@(?:notice|dev|param|return|custom:\w+|inheritdoc)\b)", text)
        if part.strip()
    ]
    lines = []
    for part in parts:
        tag, _, rest = part.partition(" ")
        if tag in ("@param", "@return"):
            name, _, said = rest.partition(" ")
            lines.append(f"- {tag[1:]} `{name}`: {said}")
        else:
            lines.append(f"\n{rest if tag.startswith('@') else part}\n")
    return "\n".join(lines) + "\n"


def api() -> str:
    """Return the reference of the gateway's HTTP API, by tag."""
    from market.gateway.app import create_app

    runtime: Any = SimpleNamespace(settings=SimpleNamespace(console=False))
    described = create_app(runtime).openapi()
    out = [
        "# API reference\n\nWritten from the gateway's OpenAPI description, which it serves at `/openapi.json`, by `make site`.\n"
    ]
    by_tag: dict[str, list[str]] = {}
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            by_tag.setdefault((one.get("tags") or ["Other"])[0], []).append(_operation(method, path, one))
    for tag, found in sorted(by_tag.items()):
        out += [f"## {tag}\n", *found]
    out.append("## Shapes\n")
    for name, schema in sorted(described["components"]["schemas"].items()):
        rows = "\n".join(
            f"| `{field}` | {_type(what)} | {str(what.get('description', '')).replace('|', '/')} |"
            for field, what in schema.get("properties", {}).items()
        )
        table = f"| field | type | |\n|---|---|---|\n{rows}\n" if rows else ""
        out.append(f"### {name}\n\n{schema.get('description', '')}\n\n{table}")
    return "\n".join(out)


def _operation(method: str, path: str, one: dict[str, Any]) -> str:
    parameters = "\n".join(
        f"- `{p['name']}` ({p['in']}{', required' if p.get('required') else ''}): {p.get('description') or _type(p.get('schema', {}))}"
        for p in one.get("parameters", [])
    )
    answers = ", ".join(
        f"{status} {_type(content['schema'])}"
        if (content := next(iter(answer.get("content", {}).values()), None))
        else status
        for status, answer in one.get("responses", {}).items()
    )
    return f"### {method.upper()} {path}\n\n{one.get('description', '')}\n\n{parameters}\n\nAnswers: {answers}\n"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


if __name__ == "__main__":
    sys.exit(main())
