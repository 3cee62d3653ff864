"""The commands of the guides, typed as they stand there by somebody in an empty folder; only addresses and ids are put in.

The README's and the client guide's are in test_readme_examples; that all others exist is held by tests/unit/docs.
"""

import json
import re

import httpx
import pytest
from eth_account import Account

from contracts.bindings.dispute_manager import DisputeManager
from contracts.bindings.worker_registry import WorkerRegistry
from contracts.protocol.hexes import address_from_hex, checksum, hex0x
from contracts.protocol.money import ATOMIC_PER_TOKEN
from market.demo import minilm
from market.demo.network import LocalMarket, Options
from market.devnet import services
from market.devnet.process import free_port
from market.sdk.client import Market
from market.sdk.papers import PaperStore
from tests.support import models, tiny_llm
from tests.support.documents import ROOT, Reading, blocks
from tests.support.keystores import quicken
from tests.support.person import Person, until

pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

DOCS = ROOT / "docs"


class SharedMarket(LocalMarket):
    """A market beside whose gateway process another one may run."""

    def gateway_environment(self):
        return {**super().gateway_environment(), "MARKET_SHARED_RESERVATIONS": "true"}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documented")
    packages = (folder / minilm.TEXT_NAME, folder / "smollm", folder / "reranker", folder / "agent")
    minilm.build_text_package(packages[0])
    tiny_llm.package(packages[1])
    models.ranker_package(packages[2])
    tiny_llm.tool_package(packages[3])
    options = Options(folder / "market", keep_state=False, settle_interval_seconds=3_600.0, packages=packages)
    with SharedMarket(options) as found:
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
    with Reading("docs/owners.md", "console", but="worker convert") as lines:
        for line in lines:
            owner.types(line)
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
    with Reading("docs/clients-openai.md", "console") as lines:
        curl = lines.next("curl")
    assert len(json.loads(person.types(f"{curl} --silent"))["data"][0]["embedding"]) == minilm.HIDDEN
    papers = PaperStore(local.data_dir / "client" / "papers.db")
    with (
        Market(local.gateway_url, local.wallet("client"), papers=papers) as market,
        Reading("docs/clients-openai.md", "python") as programs,
    ):
        scope = {"market": market}
        for block in programs:
            placed = block.replace("http://127.0.0.1:8080", local.gateway_url).replace("mk_…", key)
            exec(compile(placed, "clients-openai.md", "exec"), scope)
    shown = capsys.readouterr().out
    assert f" {minilm.HIDDEN}\n" in shown
    assert "relevance_score=" in shown


def test_the_pages_for_x402(local, tmp_path):
    """A gateway opens its door as its page says; a client pays at it by the program of the other page."""
    port, house_target = free_port(), 5_000_000
    placed = {
        "https://gateway.example": f"http://127.0.0.1:{port}",
        "http://127.0.0.1:8080": f"http://127.0.0.1:{port}",
        "eip155:84532": f"eip155:{local.chain.domain.chain_id}",
        '"0x…"': f'"{checksum(local.chain.deployment.token)}"',
    }
    settings = {name: value for name, value in local.gateway_environment().items() if "X402" not in name}
    own = {"MARKET_PORT": str(port), "MARKET_GATEWAY_ID": "door"}
    payer = Account.create()
    local.chain.mint(local.wallet("deployer"), bytes.fromhex(payer.address[2:]), 2_000_000)
    person = Person(tmp_path / "gateway", placed, **settings, **own, PAYER_KEY=f"0x{bytes(payer.key).hex()}")
    (shown,) = [block for block in blocks("docs/gateways-x402.md", "console") if "cat gateway.env" in block]
    lines = [line for line in shown.splitlines() if line.startswith("MARKET_")]
    assert f"MARKET_X402_HOUSE_TARGET={house_target}" in lines
    (person.folder / "gateway.env").write_text(person.placing("\n".join(lines)))
    with Reading("docs/gateways-x402.md", "console") as said:
        person.types(said.next("market wallet new"))
        house = bytes.fromhex(json.loads((person.folder / "house.json").read_text())["address"].removeprefix("0x"))
        services.rpc(local.rpc_url, "anvil_setBalance", checksum(house), hex(10**19))
        local.chain.mint(local.wallet("deployer"), house, house_target)
        assert person.types(said.next("cat gateway.env")).splitlines()[0] == "MARKET_X402_KEYSTORE=house.json"
        with person.keeps_running(said.next("market serve")) as gateway:
            metric = re.compile(r"^market_x402_house_units (\S+)$", re.MULTILINE)

            def filled():
                assert gateway.poll() is None, (person.folder / "running.log").read_text()
                try:
                    found = metric.search(httpx.get(f"http://127.0.0.1:{port}/metrics").text)
                except httpx.TransportError:
                    return False
                return found and float(found[1]) >= house_target

            until(filled, "the house channel was not filled")
            until(lambda: minilm.TEXT_NAME in httpx.get(f"http://127.0.0.1:{port}/.well-known/x402").text, "no offer")
            with Reading("docs/clients-x402.md", "python") as programs:
                for program in programs:
                    assert person.runs(program).startswith(f"200 [1, {minilm.HIDDEN}] ")
    assert local.chain.balance(bytes.fromhex(payer.address[2:])) < 2_000_000


def test_the_guide_for_operators(local, tmp_path):
    """Last: it ends with a gateway that is gone."""
    placed = {
        "https://gateway.example": local.gateway_url,
        "http://127.0.0.1:8545": local.rpc_url,
        "/etc/valkey/users.acl": "users.acl",
    }
    with Reading("docs/operators.md", "console") as lines:
        operate(local, tmp_path, placed, lines.next)


def operate(local, tmp_path, placed, following):
    # packages lie in this machine's folders, the gateway is plain HTTP on it
    here = {"WORKER_ALLOW_FILE_URI": "true", "WORKER_ISOLATION": "limits", "WORKER_DRAIN_SECONDS": "1"}
    person = Person(tmp_path / "operator", placed, **here)

    def drawn(person):
        return person.folder / ".config" / "inference-market" / "worker.json"

    def address(person):
        path = drawn(person)
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
        quicken(other.folder / "operator.json", other.folder / "operator.pass")
        with other.keeps_running(following("worker init --yes")):
            worker = address(other)
            until(lambda: live(worker), "the second is not live")
            quicken(drawn(other), drawn(other).with_suffix(".pass"))
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

    def pass_time(seconds=window):
        services.rpc(local.rpc_url, "evm_increaseTime", seconds)
        services.rpc(local.rpc_url, "evm_mine")

    pass_time()
    other.types(following("worker audit"))
    other.types(following("export"))
    for _ in range(2):
        other.types(following("worker challenge"), **{"0xREQUEST_ID": request_id})
    foreseen = following("worker uphold")
    assert re.search(r"seconds left +[1-9]", other.types(foreseen, **{"0xREQUEST_ID": request_id}))
    pass_time()
    assert re.search(r"seconds left +0$", other.types(foreseen, **{"0xREQUEST_ID": request_id}), re.MULTILINE)
    assert "transaction" in other.types(following("worker uphold"), **{"0xREQUEST_ID": request_id})
    for line in rescue:
        other.types(line)
    for line in ("worker stake 10", "worker unstake 10"):
        other.types(line)
    workers = WorkerRegistry(local.chain._web3, local.chain.deployment.worker_registry)
    pass_time(int(workers.read("thawPeriod")) + 10)
    held = local.chain.balance(operator)
    other.types("worker withdraw")
    assert local.chain.balance(operator) == held + 10 * ATOMIC_PER_TOKEN

    other.types(following("market broker-acl"), **{"0xWORKER": worker})
    assert (other.folder / "users.acl").read_text().startswith("user worker-")
    (other.folder / "package").symlink_to(local.data_dir / "packages" / minilm.NAME)
    other.types(following("worker check"))
    other.types(following("worker tune"))
