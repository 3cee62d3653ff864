"""Programs that pay from one channel at the same time, each with a store of its own on one file of papers."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from market.sdk import kernel
from market.sdk.client import Market
from market.sdk.papers import PaperStore
from tests.unit.market.sdk.conftest import PRICE, FakeGateway

X = {"x": np.array([[1, 2, 3, 4]], np.float32)}


@pytest.fixture
def other(market, gateway, papers, tmp_path):
    """A second program: same wallet, same file."""
    store = PaperStore(tmp_path / "papers.db")
    with Market("http://gateway", market.wallet, papers=store, transport=httpx.MockTransport(gateway.handle)) as other:
        yield other
    store.close()


def unpaid(gateway: FakeGateway) -> list[int]:
    """Note the refusals of a gateway that takes a moment to answer."""
    found: list[int] = []
    infer = gateway.infer

    def slowly(request):
        time.sleep(0.002)
        reply = infer(request)
        if reply.status_code == 402:
            found.append(int(request.headers["Market-Voucher"].split(";")[1]))
        return reply

    gateway.infer = slowly
    return found


def test_two_programs_take_turns_and_none_is_refused(market, other, gateway):
    refused = unpaid(gateway)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(one.infer, "m", X) for _ in range(20) for one in (market, other)]
        paid = sorted(done.result().cumulative for done in running)
    assert paid == [PRICE * (number + 1) for number in range(40)]
    assert refused == []


def test_who_waited_long_enough_goes_on_without_its_turn(market, other, papers, monkeypatch):
    monkeypatch.setattr(kernel, "_TURN_SECONDS", 0.1)
    channel_id = market.channel().channel_id
    end = papers.take_turn(channel_id)
    assert papers.take_turn(channel_id) is None
    started = time.monotonic()
    assert other.infer("m", X).charged == PRICE
    assert 0.1 <= time.monotonic() - started < 1.5
    end()
    papers.take_turn(channel_id)()


def test_a_program_that_failed_has_ended_its_turn(market, other, gateway):
    gateway.infer = lambda request: httpx.Response(400, json={"code": "x", "detail": "no.", "retry": "never"})
    with pytest.raises(Exception, match="no"):
        market.infer("m", X)
    del gateway.infer
    started = time.monotonic()
    other.infer("m", X)
    assert time.monotonic() - started < 1


def test_what_another_program_paid_meanwhile_explains_what_the_gateway_counts(market, other, gateway, monkeypatch):
    """Refused once and again since the other was quicker each time: its receipts stand in the same file."""
    monkeypatch.setattr(kernel, "_TURN_SECONDS", 0)
    overtaken = iter((True, False) * 3)
    infer = gateway.infer

    def after_the_other(request):
        if next(overtaken, False):
            other.infer("m", X)
        return infer(request)

    gateway.infer = after_the_other
    assert market.infer("m", X).cumulative == 4 * PRICE
