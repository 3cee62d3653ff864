"""Two processes of one gateway behind a load balancer, and another gateway that shares their worker."""

import asyncio
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from contracts.protocol.hexes import checksum, hex0x
from market.adapters.link_hub import CLOSE_BUSY, CLOSE_REFUSED
from market.demo import minilm
from market.demo.network import GAS_MONEY_WEI, STAKE, UNIT_PRICE, LocalMarket, Options, program
from market.devnet import keys, services
from market.devnet.keys import LocalAccount
from market.devnet.process import free_port
from market.sdk.client import Market
from market.sdk.papers import PaperStore, SignedReceipt
from market.sdk.verify import verify_receipt
from tests.support.cutting_proxy import CuttingProxy
from tests.support.postgres import Postgres, need
from tests.support.raw_node import RawNode, refused

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(400),
]

AFFORDED, ASKED = 10, 40
BODY = {
    "inputs": [
        {"name": name, "datatype": "INT64", "shape": [1, 3], "data": data}
        for name, data in (
            ("input_ids", [101, 7592, 102]),
            ("attention_mask", [1, 1, 1]),
            ("token_type_ids", [0, 0, 0]),
        )
    ]
}


class SharedMarket(LocalMarket):
    """One gateway of two processes on one database and one Redis; the worker serves a second gateway too."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.other = keys.load_or_create(self.data_dir, "gateway2")
        self.other_url = ""

    def gateway_environment(self) -> dict[str, str]:
        return {**super().gateway_environment(), "MARKET_SHARED_RESERVATIONS": "true"}

    def worker_environment(self) -> dict[str, str]:
        both = (self.accounts["gateway"].address, self.other.address)
        return {**super().worker_environment(), "WORKER_GATEWAYS": ",".join(map(checksum, both))}

    def start_second_process(self) -> int:
        port = free_port()
        environment = {**self.gateway_environment(), "MARKET_PORT": str(port), "MARKET_GATEWAY_ID": "second"}
        child = self.supervisor.start("gateway-second", program("market", "serve"), environment)
        self.await_ready(child, f"http://127.0.0.1:{port}")
        return port

    def register(self, role: str) -> LocalAccount:
        """Stake for another operator's worker key, and return it."""
        operator, worker = (keys.load_or_create(self.data_dir, name) for name in (f"operator-{role}", role))
        self.accounts |= {f"operator-{role}": operator, role: worker}
        services.rpc(self.rpc_url, "anvil_setBalance", checksum(operator.address), hex(GAS_MONEY_WEI))
        self.chain.mint(self.wallet("deployer"), operator.address, STAKE)
        wallet = self.wallet(f"operator-{role}")
        self.chain.register_worker(wallet, worker.key, stake=STAKE, region="elsewhere", hardware="cpu", endpoint="")
        return worker

    def start_node(self, url: str) -> bytes:
        """Start another operator's node, linked by way of a URL; returns its worker's address."""
        worker = self.register("node")
        environment = {
            **super().worker_environment(),
            "WORKER_KEYSTORE": str(worker.keystore),
            "WORKER_STATE_DIR": str(self.data_dir / "node"),
        }
        del environment["WORKER_REDIS_URL"]
        self.supervisor.start("node", program("worker", "run", "--gateway", url), environment)
        return worker.address

    def start_other_gateway(self) -> None:
        services.rpc(self.rpc_url, "anvil_setBalance", checksum(self.other.address), hex(GAS_MONEY_WEI))
        port = free_port()
        self.other_url = f"http://127.0.0.1:{port}"
        environment = {
            **super().gateway_environment(),
            "MARKET_KEYSTORE": str(self.other.keystore),
            "MARKET_DATABASE_URL": f"sqlite:///{self.data_dir / 'other.db'}",
            "MARKET_PORT": str(port),
            "MARKET_GATEWAY_ID": "other",
        }
        del environment["MARKET_X402_KEYSTORE"]
        self.supervisor.start("jobs-other", program("market", "jobs"), environment)
        self.await_ready(
            self.supervisor.start("gateway-other", program("market", "serve"), environment), self.other_url
        )

    def await_ready(self, child, url: str) -> None:
        def served() -> bool:
            try:
                return httpx.get(f"{url}/v2/models/{minilm.NAME}/ready", timeout=5).is_success
            except httpx.HTTPError:
                return False

        child.wait_ready(served, timeout_seconds=120, what="the worker's offer")


@pytest.fixture(scope="module")
def database():
    need()
    server = Postgres()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def local(tmp_path_factory, database):
    folder = tmp_path_factory.mktemp("several")
    with SharedMarket(Options(folder, keep_state=False, settle_interval_seconds=2.0)) as found:
        found.start_services()
        found.database_url = database
        found.deploy()
        found.list_model()
        found.register_worker()
        found.start_programs()
        yield found


@pytest.fixture(scope="module")
def balanced(local):
    first = int(local.gateway_url.rpartition(":")[2])
    proxy = CuttingProxy(first, local.start_second_process())
    yield f"http://127.0.0.1:{proxy.port}"
    proxy.close()


def opened(local, url, gateway, amount):
    """A channel that every process behind the URL has seen, and a header that pays all of it."""
    wallet = local.wallet("client")
    channel = local.chain.open_channel(wallet, gateway, amount)
    channel_id = channel.digest(local.chain.domain)
    deadline = time.monotonic() + 60
    seen = 0
    while seen < 4:  # the balancer takes turns: each process twice
        answer = httpx.get(f"{url}/market/v1/channels/{hex0x(channel_id)}")
        seen = seen + 1 if answer.is_success else 0
        assert time.monotonic() < deadline, "the deposit is not seen"
        time.sleep(0.05)
    return channel_id, {"Market-Voucher": wallet.voucher_header(channel, amount, local.chain.domain)}


def ask(url, headers, *, request_id=None, worker=None):
    # A connection each, so that the balancer sends neighbours to different processes.
    named = {} if request_id is None else {"Market-Request-Id": request_id}
    named |= {} if worker is None else {"Market-Worker": checksum(worker)}
    return httpx.post(f"{url}/v2/models/{minilm.NAME}/infer", json=BODY, headers={**headers, **named}, timeout=60)


def settled(local, channel_id, amount):
    deadline = time.monotonic() + 90
    while local.chain.channel_settled(channel_id) < amount:
        assert time.monotonic() < deadline, "not settled"
        time.sleep(0.2)
    return local.chain.channel_settled(channel_id)


def test_two_processes_never_spend_one_deposit_twice(local, balanced):
    channel_id, headers = opened(local, balanced, local.accounts["gateway"].address, AFFORDED * UNIT_PRICE)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(balanced, headers), range(ASKED)))
    served = [answer for answer in answers if answer.status_code == 200]
    # What was refused as busy may be asked again; never more is served than the deposit pays.
    while len(served) < AFFORDED:
        answer = ask(balanced, headers)
        assert answer.status_code in (200, 429, 503), answer.text
        served += [answer] if answer.status_code == 200 else []
    assert len(served) == AFFORDED
    assert {answer.json()["code"] for answer in answers if answer.status_code == 402} <= {
        "insufficient-deposit",
        "insufficient-voucher",
        "stale-voucher",
    }
    assert ask(balanced, headers).status_code == 402
    cumulative = sorted(int(answer.headers["market-cumulative"]) for answer in served)
    assert cumulative[-1] == AFFORDED * UNIT_PRICE
    assert settled(local, channel_id, AFFORDED * UNIT_PRICE) == AFFORDED * UNIT_PRICE


def test_one_request_id_at_both_processes_is_charged_once(local, balanced):
    channel_id, headers = opened(local, balanced, local.accounts["gateway"].address, 5 * UNIT_PRICE)
    name = hex0x(secrets.token_bytes(32))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(balanced, headers, request_id=name), range(8)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert ask(balanced, headers, request_id=name).status_code == 200
    assert settled(local, channel_id, UNIT_PRICE) == UNIT_PRICE


def test_a_linked_node_is_reached_through_either_process(local, balanced):
    node = local.start_node(balanced)
    channel_id, headers = opened(local, balanced, local.accounts["gateway"].address, 100 * UNIT_PRICE)
    deadline, served = time.monotonic() + 120, 0
    while served < 8:  # the balancer takes turns: each process four times in a row
        answer = ask(balanced, headers, worker=node)
        served = served + 1 if answer.status_code == 200 else 0
        assert answer.status_code == 200 or answer.json()["code"] in ("no-capacity", "worker-failed"), answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(0 if served else 0.2)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(balanced, headers, worker=node), range(24)))
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    assert {SignedReceipt.from_header(one.headers["market-receipt"], model="").receipt.worker for one in answers} == {
        node
    }
    charged = max(int(answer.headers["market-cumulative"]) for answer in answers)
    assert settled(local, channel_id, charged) == charged


async def test_a_worker_that_floods_one_process_is_barred_at_the_other(local, balanced):
    gateway, flooder = local.accounts["gateway"].address, local.register("flooder")
    proxy, first = (int(url.rpartition(":")[2]) for url in (balanced, local.gateway_url))

    def node(port):
        return RawNode(port, flooder.key, gateway=gateway, domain=local.chain.domain)

    deadline = time.monotonic() + 60
    while True:
        try:
            linked = await node(first).open()
            break
        except ConnectionClosed:  # its stake is not seen yet
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
    assert await linked.flood() in (CLOSE_BUSY, 1006)
    for _ in range(4):  # the balancer takes turns
        again = node(proxy)
        assert await refused(again, await again.hello()) == CLOSE_REFUSED
    _, headers = opened(local, balanced, gateway, 2 * UNIT_PRICE)
    node_address = local.accounts["node"].address
    assert {ask(balanced, headers, worker=node_address).status_code for _ in range(2)} == {200}


def test_another_gateway_shares_the_worker(local):
    local.start_other_gateway()
    with Market(local.other_url, local.wallet("client"), papers=PaperStore(None)) as market:
        channel = local.chain.open_channel(local.wallet("client"), local.other.address, 10 * UNIT_PRICE)
        market.use_channel(channel, local.chain.domain)
        market.wait_for_channel(channel.digest(local.chain.domain), deposited=10 * UNIT_PRICE)
        outcome = market.infer(minilm.NAME, minilm.tokenize(minilm.load_tokenizer(), ["shared"]))
        assert outcome.paper.receipt.gateway == local.other.address
        assert outcome.paper.receipt.worker == local.accounts["worker"].address
        assert verify_receipt(market.wait_for_settlement(outcome.paper, timeout_seconds=90), local.chain).valid
    # A channel to one gateway pays nothing at the other.
    _, headers = opened(local, local.gateway_url, local.accounts["gateway"].address, UNIT_PRICE)
    refused = ask(local.other_url, headers)
    assert refused.status_code == 402
    assert ask(local.gateway_url, headers).status_code == 200
