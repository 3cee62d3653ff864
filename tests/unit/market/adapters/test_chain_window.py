"""What of the chain a browser may ask through the gateway: four reads, of this market's contracts, and nothing else."""

import json

import httpx
import pytest

from contracts.protocol.hexes import checksum
from market.adapters.chain_window import MAX_AT_ONCE, MAX_LOG_BLOCKS, ChainWindow
from market.errors import ChainReadRefused, ChainUnreachable, Overloaded

ESCROW, STRANGER = checksum(b"\x0e" * 20), checksum(b"\x0f" * 20)


class Node:
    def __init__(self) -> None:
        self.seen: list[dict] = []
        self.answer: dict = {"jsonrpc": "2.0", "id": 1, "result": "0x10"}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(json.loads(request.content))
        return httpx.Response(200, json=self.answer)


@pytest.fixture
def node():
    return Node()


@pytest.fixture
async def window(node):
    found = ChainWindow("http://node", [b"\x0e" * 20], transport=httpx.MockTransport(node))
    yield found
    await found.close()


async def test_a_call_is_passed_on_with_nothing_but_what_was_checked(window, node):
    call = {"to": ESCROW, "data": "0x1234", "from": STRANGER, "gas": "0xffffff", "value": "0x1"}
    assert await window.ask("eth_call", [call, "latest"]) == {"result": "0x10"}
    assert node.seen[0]["params"] == [{"to": ESCROW, "data": "0x1234"}, "latest"]


async def test_logs_are_passed_on_for_a_bounded_range(window, node):
    wanted = {"address": [ESCROW.lower()], "fromBlock": "0x1", "toBlock": "0x5", "topics": ["0x" + "11" * 32, None]}
    assert await window.ask("eth_getLogs", [wanted]) == {"result": "0x10"}
    with pytest.raises(ChainReadRefused, match="more than"):
        await window.ask("eth_getLogs", [{**wanted, "toBlock": "0xffffff"}])


async def test_a_range_without_an_end_ends_at_the_newest_block(window, node):
    """Also where nobody has asked for that yet, or only long ago."""
    node.answer["result"] = hex(MAX_LOG_BLOCKS + 10)
    for last in ({}, {"toBlock": "latest"}, {"toBlock": "finalized"}):
        window._head = (float("-inf"), 0)
        for first in (0, 9):
            with pytest.raises(ChainReadRefused, match="more than"):
                await window.ask("eth_getLogs", [{"address": ESCROW, "fromBlock": hex(first), **last}])
    assert {one["method"] for one in node.seen} == {"eth_blockNumber"}
    await window.ask("eth_getLogs", [{"address": ESCROW, "fromBlock": hex(10)}])
    assert node.seen[-1]["method"] == "eth_getLogs"


async def test_an_answer_that_is_too_large_is_not_read(window, node, monkeypatch):
    monkeypatch.setattr("market.adapters.chain_window.MAX_ANSWER_BYTES", 10_000)
    node.answer["result"] = "0x" + "00" * 5_000
    with pytest.raises(ChainReadRefused, match="larger than"):
        await window.ask("eth_call", [{"to": ESCROW, "data": "0x"}])
    node.answer["result"] = "0x" + "00" * 4_000
    assert await window.ask("eth_call", [{"to": ESCROW, "data": "0x"}]) == {"result": node.answer["result"]}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_sendRawTransaction", ["0x00"]),
        ("eth_getBalance", [ESCROW, "latest"]),
        ("anvil_setBalance", [ESCROW, "0x1"]),
        (None, []),
        ("eth_call", [{"to": STRANGER, "data": "0x"}, "latest"]),
        ("eth_call", [{"to": ESCROW, "data": "zz"}, "latest"]),
        ("eth_call", [{"to": ESCROW, "data": "0x" + "00" * 20_000}]),
        ("eth_call", [{"to": ESCROW, "data": "0x"}, {"blockHash": "0x"}]),
        ("eth_call", [{"to": ESCROW, "data": "0x"}, "latest", {ESCROW: {"code": "0x00"}}]),
        ("eth_call", "0x"),
        ("eth_getLogs", [{"fromBlock": "0x1"}]),
        ("eth_getLogs", [{"address": []}]),
        ("eth_getLogs", [{"address": [ESCROW, STRANGER]}]),
        ("eth_getLogs", [{"address": ESCROW, "topics": ["0x12"] * 5}]),
    ],
)
async def test_everything_else_is_refused_before_the_node_hears_of_it(window, node, method, params):
    with pytest.raises(ChainReadRefused):
        await window.ask(method, params)
    assert node.seen == []


async def test_the_nodes_own_error_comes_back_and_nonsense_is_named(window, node):
    node.answer = {"jsonrpc": "2.0", "id": 1, "error": {"code": 3, "message": "reverted", "data": "0x"}}
    assert (await window.ask("eth_call", [{"to": ESCROW, "data": "0x"}]))["error"]["message"] == "reverted"
    node.answer = {}
    with pytest.raises(ChainUnreachable):
        await window.ask("eth_chainId", [])


async def test_the_head_is_asked_for_once_a_second(window, node):
    assert [await window.head(), await window.head()] == [16, 16]
    assert len(node.seen) == 1


async def test_more_at_once_than_allowed_is_refused(window):
    window._asked = MAX_AT_ONCE
    with pytest.raises(Overloaded):
        await window.ask("eth_chainId", [])
