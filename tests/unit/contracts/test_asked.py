"""A program imports the command that is asked for, and knows all of them."""

import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from market import cli as market_cli
from workers import cli as worker_cli

PROGRAMS = {"market": market_cli, "worker": worker_cli}
# What nothing that is asked for here needs, and most commands do.
HEAVY = ("web3", "onnxruntime", "sqlalchemy", "fastapi", "redis")


@pytest.mark.parametrize(
    "words",
    [
        "market --version",
        "market --help",
        "worker --help",
        "market model check --help",
        "market channel open --help",
        "worker --version",
        "worker check --help",
        "worker quantize --help",
        "worker drain --help",
    ],
)
def test_what_is_not_asked_for_is_not_imported(words):
    program, *rest = words.split()
    code = (
        f"import sys\nfrom {PROGRAMS[program].__name__} import main\nsys.argv = {[program, *rest]}\n"
        f"try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"found = [name for name in {HEAVY} if name in sys.modules]\nassert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_is_where_it_is_said_to_be(program):
    found = get_command(PROGRAMS[program].app)
    assert len(found.commands) == len(PROGRAMS[program].Commands.places)
    for name, command in found.commands.items():
        assert command.name == name
        # What the list says of it, by which nothing is imported.
        assert " ".join(command.help.partition("\n\n")[0].split()) == PROGRAMS[program].Commands.places[name].says
        assert found.commands[name] is command
    assert "nothing" not in found.commands
    assert found.commands.get("nothing") is None


def test_who_mistypes_is_told_what_there_is():
    done = CliRunner().invoke(market_cli.app, ["chanel"])
    assert done.exit_code == 2
    assert "'channel'" in done.output
