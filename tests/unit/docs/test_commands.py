"""Every command that a document names is there: programs, sub-commands, options, make targets."""

import re
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from market import cli as market_cli
from workers import cli as worker_cli

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = {"market": get_command(market_cli.app), "worker": get_command(worker_cli.app)}
BLOCK = re.compile(r"^```(?:console|sh|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:market|worker|make) [^`\n]+)`")
# What belongs to a shell and not to the command.
SHELL = re.compile(r"\s(?:>>?|\||&&)\s.*$")


def commands():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
        said = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in said + INLINE.findall(BLOCK.sub("", text)):
            words = shlex.split(SHELL.sub("", line).replace("…", ""), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and Path(words[0]).name in (*PROGRAMS, "make"):
                yield pytest.param(Path(words[0]).name, words[1:], id=f"{page.name}: {' '.join(words)[:60]}")


ALL = list(commands())


@pytest.mark.parametrize("program", [market_cli, worker_cli])
def test_programs_say_their_version(program):
    told = CliRunner().invoke(program.app, ["--version"])
    assert (told.exit_code, told.output) == (0, version("inference-market") + "\n")


@pytest.mark.parametrize(("program", "words"), [one for one in ALL if one.values[0] == "make"])
def test_make_targets_exist(program, words):
    del program
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {word for word in words if "=" not in word} <= targets


@pytest.mark.parametrize(("program", "words"), [one for one in ALL if one.values[0] in PROGRAMS])
def test_programs_know_the_commands_and_their_options(program, words):
    command, rest = PROGRAMS[program], list(words)
    while hasattr(command, "commands"):
        assert rest, f"{program} {words} names no command"
        # `init|check` stands for each of them
        name, *others = rest.pop(0).split("|")
        assert {name, *others} <= set(command.commands), words
        command = command.commands[name]
    options = {option: one for one in command.params for option in (*one.opts, *one.secondary_opts)}
    places = sum(1 if one.nargs > 0 else 99 for one in command.params if one.param_type_name == "argument")
    given = 0
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            given += 1
            continue
        if word == "--help":
            continue
        name, equals, _ = word.partition("=")
        assert name in options, f"{program} {' '.join(words)}"
        if rest and not equals and not options[name].is_flag:
            rest.pop(0)
    assert given <= places, f"{program} {' '.join(words)}"


def test_the_documents_name_most_commands():
    named = {words[0] for program, words in (one.values for one in ALL) if program == "worker" and words}
    assert set(PROGRAMS["worker"].commands) - named == set()
