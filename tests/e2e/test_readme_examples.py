"""The examples and commands of the README and the client guide, run as they stand there; only addresses are put in."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from market.cli import app
from market.demo import minilm
from market.demo.network import LocalMarket, Options
from tests.support import tiny_llm

pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CLIENTS = ROOT / "docs" / "clients.md"
# Runs until it is told to stop: the fixture does the same.
ENDLESS = "up"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    package = folder / minilm.TEXT_NAME
    minilm.build_text_package(package)
    tiny_llm.package(folder / "writer")
    options = Options(folder / "market", keep_state=False, packages=(package, folder / "writer"))
    with LocalMarket(options) as found:
        found.start()
        found.save_network_file()
        yield found


def test_the_examples_run_in_order(local, capsys):
    opened = CliRunner().invoke(app, ["channel", "open", "1.00", "--json", "--data-dir", str(local.data_dir)])
    assert json.loads(opened.output)["deposited"] == "1000000"
    for page, count in ((README, 4), (CLIENTS, 2)):
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
        assert len(blocks) == count
        scope: dict = {}
        for block in blocks:
            placed = block.replace("127.0.0.1:8080", local.gateway_url.removeprefix("http://"))
            exec(compile(placed.replace(".market/", f"{local.data_dir}/"), str(page), "exec"), scope)
        shown = capsys.readouterr().out
        assert re.search(r"^[1-9]\d* receipts checked and kept$", shown, re.MULTILINE), shown
        if page == README:
            assert re.search(r"^paid [1-9]\d* for [1-9]\d* tokens$", shown, re.MULTILINE), shown


def test_the_commands_run_in_order(local):
    ran, last = [], {}
    for page in (README, CLIENTS):
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
            for line in re.findall(r"^\$ (?:\.venv/bin/)?market (.*)$", block, re.MULTILINE):
                words = shlex.split(line, comments=True)
                if words[0] == ENDLESS:
                    continue
                if words[0] == "trace":
                    words[1] = last["infer"]["requestId"]
                done = CliRunner().invoke(app, [*words, "--json", "--data-dir", str(local.data_dir)])
                assert done.exit_code == 0, f"market {line}: {done.output}"
                last[words[0]] = json.loads(done.stdout)
                ran.append(words[0])
    assert {"channel", "infer", "receipts", "status", "wallet", "keys", "trace"} <= set(ran)
