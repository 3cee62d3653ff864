"""A node of another operator's over a real link: paid, cut under load, stopped; nothing lost, nothing charged twice."""

import os
import secrets
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from contracts.protocol.hexes import hex0x
from market.demo import minilm
from market.demo.network import UNIT_PRICE, LocalMarket, Options, program
from market.sdk.papers import PaperStore
from tests.e2e.test_paid_inference import TOKENS
from tests.support.cutting_proxy import CuttingProxy
from tests.support.processes import family, signalled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

DEPOSIT = 2_000_000
REQUESTS, AT_ONCE = 300, 12
URL = f"/v2/models/{minilm.NAME}/infer"


class LinkedMarket(LocalMarket):
    """A local market whose worker comes through a proxy that can be cut."""

    proxy: CuttingProxy | None = None

    def link_url(self) -> str:
        if self.proxy is None:
            self.proxy = CuttingProxy(int(self.gateway_url.rpartition(":")[2]))
        return f"http://127.0.0.1:{self.proxy.port}"


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("linked")
    with LinkedMarket(Options(folder, keep_state=False, settle_interval_seconds=2.0, linked=True)) as found:
        found.start()
        yield found
    found.proxy.close()


@pytest.fixture(scope="module")
def http(linked):
    with httpx.Client(base_url=linked.gateway_url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def market(linked, tmp_path_factory):
    papers = PaperStore(tmp_path_factory.mktemp("client") / "papers.db")
    with linked.client(DEPOSIT, papers=papers) as found:
        yield found
    papers.close()


@pytest.fixture(scope="module")
def paid(linked, market, http):
    kept = market.channel()
    voucher = {"Market-Voucher": market.wallet.voucher_header(kept.channel, DEPOSIT, kept.domain)}

    def send(request_id: bytes | None = None) -> httpx.Response:
        headers = {**voucher, "Market-Request-Id": hex0x(request_id or secrets.token_bytes(32))}
        return http.post(URL, json=TOKENS, headers=headers)

    return send


def charged(http, market) -> int:
    return int(http.get(f"/market/v1/channels/{hex0x(market.channel().channel_id)}").json()["charged"])


def journal_rows(linked) -> tuple[int, int, int]:
    """Return how many receipts the node's workers signed, for how many requests, and how many are countersigned."""
    [path] = (linked.data_dir / "worker").glob("papers-*.db")
    with sqlite3.connect(path) as db:
        work = db.execute("SELECT count(*), count(DISTINCT request_id) FROM work").fetchone()
        return (*work, *db.execute("SELECT count(DISTINCT work) FROM countersignatures").fetchone())


def test_a_linked_worker_is_paid_like_any_other(linked, market, http, paid):
    answer = paid()
    assert answer.status_code == 200, answer.text
    assert charged(http, market) == UNIT_PRICE


def test_the_node_knows_nothing_of_the_gateways_redis(linked):
    [node] = [child for child in linked.supervisor.children if child.name == "worker"]
    said = Path(f"/proc/{node.pid}/environ").read_text()
    assert linked.redis_url not in said
    assert linked.redis_url not in node.log.read_text()


def test_a_link_cut_again_and_again_under_load_loses_and_doubles_nothing(linked, market, http, paid):
    before, accepted = charged(http, market), linked.proxy.accepted
    stop = threading.Event()

    def cut() -> None:
        while not stop.wait(0.25):
            linked.proxy.cut()

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda _: paid(), range(REQUESTS)))
    finally:
        stop.set()
        cutter.join()
    assert [answer.status_code for answer in answers] == [200] * REQUESTS, {
        answer.text for answer in answers if answer.status_code != 200
    }
    assert linked.proxy.accepted - accepted > 3, "it was not cut"
    assert len({answer.headers["Market-Receipt"] for answer in answers}) == REQUESTS
    assert charged(http, market) - before == REQUESTS * UNIT_PRICE


def test_every_receipt_is_in_the_nodes_journal_once_and_countersigned(linked, market, http, paid):
    total = charged(http, market) // UNIT_PRICE
    deadline = time.monotonic() + 20
    while journal_rows(linked) != (total, total, total):
        assert time.monotonic() < deadline, (journal_rows(linked), total)
        time.sleep(0.2)


def test_all_of_it_settles(linked, market, http):
    due = charged(http, market)
    deadline = time.monotonic() + 60
    while linked.chain.channel_settled(market.channel().channel_id) < due:
        assert time.monotonic() < deadline, "not settled"
        time.sleep(0.2)
    assert linked.chain.channel_settled(market.channel().channel_id) == due == charged(http, market)


def test_a_request_that_its_gateway_did_not_live_to_charge_is_served_when_it_is_asked_again(linked, market, http, paid):
    """The node has run that job already; asked again by its id it is another job."""
    before, known = charged(http, market), journal_rows(linked)[0]
    by_name = {child.name: child for child in linked.supervisor.children}
    node, gateway = by_name["worker"], by_name["gateway"]
    request_id, frozen = secrets.token_bytes(32), family(node.pid)
    for pid in frozen:
        signalled(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(paid, request_id)
        time.sleep(1.0)
        os.killpg(gateway.pid, signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            lost.result()
    linked.supervisor.stop(gateway)
    for pid in frozen:
        signalled(pid, signal.SIGCONT)
    environment = {**linked.gateway_environment(), "MARKET_PORT": linked.gateway_url.rpartition(":")[2]}
    again = linked.supervisor.start("gateway", program("market", "serve"), environment)
    ready = f"/v2/models/{minilm.NAME}/ready"
    again.wait_ready(lambda: linked._get(ready) is not None, timeout_seconds=60, what="the node's offer")
    assert journal_rows(linked)[0] == known + 1, "the node has run it"
    assert charged(http, market) == before
    answer = paid(request_id)
    assert answer.status_code == 200, answer.text
    assert answer.elapsed.total_seconds() < 5
    assert charged(http, market) == before + UNIT_PRICE


def test_a_node_told_to_stop_answers_what_it_has_in_hand(linked, market, http, paid):
    before = charged(http, market)
    [node] = [child for child in linked.supervisor.children if child.name == "worker"]
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(paid) for _ in range(40)]
        time.sleep(0.05)
        linked.supervisor.children.remove(node)
        node.stop(grace_seconds=40)
        answers = [one.result() for one in running]
    assert node.exit_code == 0, node.log_tail()
    served = [answer for answer in answers if answer.status_code == 200]
    assert served
    assert {answer.json()["code"] for answer in answers if answer.status_code != 200} <= {
        "no-capacity",
        "worker-failed",
        "deadline-exceeded",
    }
    assert charged(http, market) - before == len(served) * UNIT_PRICE
