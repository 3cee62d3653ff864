"""The examples and commands of the README and the client guide, run as they stand there; only addresses are put in."""

import json
import re

import pytest

from market.demo import minilm
from market.demo.network import LocalMarket, Options
from tests.support import tiny_llm
from tests.support.documents import Reading
from tests.support.person import Person

pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]


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


@pytest.fixture(scope="module")
def person(local, tmp_path_factory):
    """Somebody in the project's folder, whose programs lie on the path here."""
    placed = {
        ".venv/bin/": "",
        "http://127.0.0.1:8080": local.gateway_url,
        "127.0.0.1:8080": local.gateway_url.removeprefix("http://"),
    }
    found = Person(tmp_path_factory.mktemp("person"), placed)
    (found.folder / ".market").symlink_to(local.data_dir)
    return found


def test_the_commands_run_in_order(person):
    with Reading("README.md", "console") as lines:
        shown = {words(line): person.types(line) for line in lines}
    assert "paid" in shown["infer minilm"]
    # Its exit status says so, too: every line is a check that holds.
    assert "ok   worker signature" in shown["receipts verify"]
    assert "FAIL" not in shown["receipts verify"]
    receipts = person.types("market receipts list --json")
    with Reading("docs/clients.md", "console") as lines:
        for line in lines:
            shown[words(line)] = person.types(line, **{"0x4cf3…": json.loads(receipts)[-1]["receipt"]["requestId"]})
    assert "mk_" in shown["keys create"]
    assert "settled" in shown["trace 0x4cf3…"]


def test_texts_go_to_whatever_model_takes_them(person):
    vectors = json.loads(person.types(f"market infer {minilm.TEXT_NAME} --text 'A cat.' --text 'A kitten.' --json"))
    assert vectors["outputs"]["similarities"][0][1] > 0.5
    assert "0." in person.types(f"market infer {minilm.TEXT_NAME} --text 'A cat.' --text 'A kitten.'").split("~")[0]
    assert "finish_reason" in person.types("market infer writer --text 'the cat'")


def words(line):
    return " ".join(line.split("market ")[1].split()[:2])


def test_the_examples_run_in_order(local, person, capsys):
    def run(programs):
        scope: dict = {}
        for program in programs:
            placed = person.placing(program).replace(".market/", f"{local.data_dir}/")
            exec(compile(placed, "a program of the documents", "exec"), scope)
        shown = capsys.readouterr().out
        assert re.search(r"^[1-9]\d* receipts checked and kept$", shown, re.MULTILINE), shown
        return shown

    with Reading("README.md", "python") as programs:
        assert re.search(r"^paid [1-9]\d* for [1-9]\d* tokens$", run(programs), re.MULTILINE)
    with Reading("docs/clients.md", "python") as programs:
        run(programs)
