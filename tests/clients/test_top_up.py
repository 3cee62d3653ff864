"""Stock clients on a channel that is too small: the deposit follows them on a real chain, within its budget."""

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from market.demo.network import UNIT_PRICE
from market.sdk.client import Market
from market.sdk.httpx_auth import MarketAuth
from market.sdk.kernel import TopUp
from market.sdk.papers import PaperStore
from market.sdk.tritonclient import Payment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SENTENCE = {"input_ids": [101, 7592, 102], "attention_mask": [1, 1, 1], "token_type_ids": [0, 0, 0]}


@pytest.fixture
def short(running):
    """A client whose channel holds one request, and may be topped up by two, twice."""
    local, wallet = running.local, running.local.wallet("house")
    top_up = TopUp(2 * UNIT_PRICE, 4 * UNIT_PRICE)
    with Market(local.gateway_url, wallet, papers=PaperStore(None), chain=local.chain, top_up=top_up) as market:
        channel = local.chain.open_channel(wallet, local.accounts["gateway"].address, UNIT_PRICE)
        market.use_channel(channel, local.chain.domain)
        market.wait_for_channel(channel.digest(local.chain.domain), deposited=UNIT_PRICE)
        yield market


def held(running, market) -> int:
    return running.local.chain.channel_state(market.channel().channel_id).deposited


def test_httpx_is_followed_until_the_budget_ends(running, short):
    inputs = [{"name": n, "datatype": "INT64", "shape": [1, 3], "data": d} for n, d in SENTENCE.items()]
    auth = MarketAuth(short, window=UNIT_PRICE, budget=20 * UNIT_PRICE)
    with httpx.Client(base_url=short.url, auth=auth, timeout=60) as client:
        answers = [client.post("/v2/models/minilm/infer", json={"inputs": inputs}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [402]
    assert answers[-1].json()["code"] == "insufficient-deposit"
    assert held(running, short) == 5 * UNIT_PRICE
    assert len(auth.collect()) == 5


def test_a_triton_clients_voucher_is_covered_before_it_is_signed(running, short):
    inputs = []
    for name, data in SENTENCE.items():
        tensor = triton.InferInput(name, [1, 3], "INT64")
        inputs.append(tensor.set_data_from_numpy(np.array([data])))
    payment = Payment(short, budget=3 * UNIT_PRICE)
    assert held(running, short) == 3 * UNIT_PRICE
    with triton.InferenceServerClient(running.http) as client:
        client.register_plugin(payment)
        for _ in range(3):
            client.infer("minilm", inputs)
        with pytest.raises(InferenceServerException):
            client.infer("minilm", inputs)
        payment.renew()
        client.infer("minilm", inputs)
    assert held(running, short) == 5 * UNIT_PRICE, "six are signed for, the budget allows five"
    assert len(payment.collect()) == 4
