"""The commands of the guides, typed as they stand there by somebody in an empty folder; only addresses and ids are put in.

The README's and the client guide's are in test_readme_examples; that all others exist is held by tests/unit/docs.
"""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from contracts.bindings.dispute_manager import DisputeManager
from contracts.protocol.hexes import address_from_hex, checksum, hex0x
from contracts.protocol.money import ATOMIC_PER_TOKEN
from market.demo import minilm
from market.demo.network import LocalMarket, Options
from market.devnet import services
from market.sdk.client import Market
from market.sdk.papers import PaperStore
from tests.support import models, tiny_llm

pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

DOCS = Path(__file__).parents[2] / "docs"
SECONDS = 300


def blocks(page, language="console"):
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def commands(page):
    """Each page's commands in their order, those that go on on the next line in one."""
    lines = (line for block in blocks(page) for line in block.replace("\\\n", " ").splitlines())
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


class Person:
    """Somebody at a terminal in a folder: what is exported stays, what stands for something is put in."""

    def __init__(self, folder, placed, **variables):
        self.folder, self.placed = folder, placed
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("WORKER_", "MARKET_"))}
        path = f"{Path(sys.executable).parent}:{plain['PATH']}"
        self.environment = {**plain, "PATH": path, "HOME": str(folder), "COLUMNS": "200", **variables}
        folder.mkdir(exist_ok=True)

    def types(self, line, *, answers=None, **more):
        """Run a line to its end; `answers` are typed at a terminal when it asks."""
        for word, value in {**self.placed, **more}.items():
            line = line.replace(word, str(value))
        if found := re.fullmatch(r"export (.*)", line):
            self.environment |= dict(one.split("=") for one in found[1].split())
            return ""
        given = {"stdin": subprocess.DEVNULL}
        if answers is not None:
            theirs, ours = pty.openpty()
            os.write(theirs, "".join(f"{answer}\n" for answer in answers).encode())
            given = {"stdin": ours}
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            **given,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def keeps_running(self, line):
        """Run a line that ends when it is told to."""
        for word, value in self.placed.items():
            line = line.replace(word, value)
        log = self.folder / "running.log"
        with log.open("wb") as out:
            child = subprocess.Popen(
                ["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.environment, stdout=out, stderr=out
            )
        try:
            yield child
            child.send_signal(signal.SIGTERM)
            assert child.wait(SECONDS) == 0, log.read_text()
        finally:
            child.kill()
            child.wait()


def until(holds, what):
    deadline = time.monotonic() + SECONDS
    while not (found := holds()):
        assert time.monotonic() < deadline, what
        time.sleep(0.3)
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documented")
    packages = (folder / minilm.TEXT_NAME, folder / "smollm", folder / "reranker")
    minilm.build_text_package(packages[0])
    tiny_llm.package(packages[1])
    models.ranker_package(packages[2])
    options = Options(folder / "market", keep_state=False, settle_interval_seconds=3_600.0, packages=packages)
    with LocalMarket(options) as found:
        found.start()
        found.save_network_file()
        yield found


def test_the_guide_for_owners(local, tmp_path):
    owner = Person(tmp_path / "owner", {})
    (owner.folder / ".market").symlink_to(local.data_dir)
    for name, graph in (("my-model", models.embedder()), ("all-MiniLM-L6-v2", models.wide_embedder())):
        (owner.folder / name).mkdir()
        (owner.folder / name / "model.onnx").write_bytes(graph)
        (owner.folder / name / "tokenizer.json").write_bytes(models.tokenizer_json())
    (owner.folder / "my-sentences.txt").write_text("the cat sat on the mat\na dog ran home\n")
    ran = [owner.types(line) for line in commands("owners.md") if not line.startswith("worker convert")]
    assert len(ran) == 5
    listed = {row["name"]: row for row in reader(local).get("/market/v1/models")}
    assert listed["my-model"]["maxPrice"] == "10"
    assert "all-minilm-l6-v2" in listed
    assert (owner.folder / "smaller" / "manifest.json").is_file()


def reader(local):
    return Market(local.gateway_url)


def test_the_page_for_openai_clients(local, tmp_path, capsys):
    person = Person(tmp_path / "client", {"http://127.0.0.1:8080": local.gateway_url})
    (person.folder / ".market").symlink_to(local.data_dir)
    inline = re.findall(r"`(market channel [^`]*\d[^`]*)`", (DOCS / "troubleshooting.md").read_text())
    assert inline == ["market channel open 1.00", "market channel topup 1.00"]
    for line in (*inline, "market channel status", "market status", "market keys fund"):
        person.types(line)
    assert "`market keys create --limit 1.00`" in (DOCS / "clients-openai.md").read_text()
    key = json.loads(person.types("market keys create --limit 1.00 --json"))["key"]
    person.environment["KEY"] = key
    (curl,) = commands("clients-openai.md")
    assert len(json.loads(person.types(f"{curl} --silent"))["data"][0]["embedding"]) == minilm.HIDDEN
    papers = PaperStore(local.data_dir / "client" / "papers.db")
    with Market(local.gateway_url, local.wallet("client"), papers=papers) as market:
        scope = {"market": market}
        for block in blocks("clients-openai.md", "python"):
            placed = block.replace("http://127.0.0.1:8080", local.gateway_url).replace("mk_…", key)
            exec(compile(placed, "clients-openai.md", "exec"), scope)
    shown = capsys.readouterr().out
    assert f" {minilm.HIDDEN}\n" in shown
    assert "relevance_score=" in shown


def test_the_guide_for_operators(local, tmp_path):
    """Last: it ends with a gateway that is gone."""
    placed = {
        "https://gateway.example": local.gateway_url,
        "http://127.0.0.1:8545": local.rpc_url,
        "/etc/valkey/users.acl": "users.acl",
    }
    # packages lie in this machine's folders, the gateway is plain HTTP on it
    here = {"WORKER_ALLOW_FILE_URI": "true", "WORKER_ISOLATION": "limits", "WORKER_DRAIN_SECONDS": "1"}
    person = Person(tmp_path / "operator", placed, **here)
    todo = commands("operators.md")

    def following(start):
        line = todo.pop(0)
        assert line.startswith(start), line
        return line

    def address(person):
        path = person.folder / ".config" / "inference-market" / "worker.json"
        until(lambda: path.exists() and path.stat().st_size, "no key was drawn")
        return checksum(address_from_hex("0x" + json.loads(path.read_text())["address"].removeprefix("0x"), field="a"))

    def live(worker):
        return any(row["live"] and row["worker"] == worker for row in reader(local).get("/market/v1/workers"))

    shown = person.types(
        following("worker init"), answers=(local.gateway_url, local.rpc_url, minilm.NAME, "900", "", "")
    )
    assert "worker register" in shown
    worker = address(person)

    person.types(following("market wallet new"))
    operator = bytes.fromhex(json.loads((person.folder / "operator.json").read_text())["address"].removeprefix("0x"))
    services.rpc(local.rpc_url, "anvil_setBalance", checksum(operator), hex(10**19))
    local.chain.mint(local.wallet("deployer"), operator, 400 * ATOMIC_PER_TOKEN)
    person.types(following("worker register"))
    with Market(local.gateway_url, local.wallet("client"), papers=PaperStore(None)) as market:
        channel = local.chain.open_channel(local.wallet("client"), local.accounts["gateway"].address, 1_000_000)
        market.use_channel(channel, local.chain.domain)
        market.wait_for_channel(channel.digest(local.chain.domain), deposited=1_000_000)
        inputs = minilm.tokenize(minilm.load_tokenizer(), ["What stands there works."])
        with person.keeps_running(following("worker run")):
            until(lambda: live(worker), "the worker is not live")
            assert market.infer(minilm.NAME, inputs, worker=worker).charged == 900
            person.types("worker doctor")
            person.types("worker drain")

        other = Person(tmp_path / "another", placed, **here)
        for name in ("operator.json", "operator.pass"):
            (other.folder / name).write_bytes((person.folder / name).read_bytes())
        with other.keeps_running(following("worker init --yes")):
            worker = address(other)
            until(lambda: live(worker), "the second is not live")
            (other.folder / "worker.env").write_bytes(
                (other.folder / ".config" / "inference-market" / "worker.env").read_bytes()
            )
            asked = [market.infer(minilm.NAME, inputs, worker=worker) for _ in range(3)]
            until(
                lambda: (
                    json.loads(other.types("worker audit --env-file worker.env --json"))["gateways"][0]["countersigned"]
                    == 3
                ),
                "the papers did not come",
            )

    rescue = [following("worker rescue"), following("worker rescue")]
    for child in local.supervisor.children:
        if child.name in ("gateway", "jobs"):
            child.stop()
    window = DisputeManager(local.chain._web3, local.chain.deployment.disputes).window() + 10
    request_id = hex0x(asked[0].paper.receipt.request_id)

    def pass_time():
        services.rpc(local.rpc_url, "evm_increaseTime", window)
        services.rpc(local.rpc_url, "evm_mine")

    pass_time()
    other.types(following("worker audit"))
    other.types(following("export"))
    for _ in range(2):
        other.types(following("worker challenge"), **{"0xREQUEST_ID": request_id})
    pass_time()
    other.types(following("worker uphold"), **{"0xREQUEST_ID": request_id})
    for line in rescue:
        other.types(line)

    other.types(following("market broker-acl"), **{"0xWORKER": worker})
    assert (other.folder / "users.acl").read_text().startswith("user worker-")
    (other.folder / "package").symlink_to(local.data_dir / "packages" / minilm.NAME)
    other.types(following("worker check"))
    other.types(following("worker tune"))
    assert todo == []
