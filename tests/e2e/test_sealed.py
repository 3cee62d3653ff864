"""Sealed requests on a whole market: the gateway carries and charges what it cannot read."""

import asyncio
import json
from dataclasses import replace

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from contracts.protocol.hexes import checksum
from contracts.protocol.sealed import key_of
from contracts.protocol.sealing import WorkersKey, open_answer, seal_request
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import Tensor
from market.cli import app
from market.demo import minilm
from market.demo.network import LocalMarket, Options
from market.sdk import drafts
from market.sdk.aio import AsyncMarket
from market.sdk.errors import GatewayMisbehaved, GatewayRefused, SealingUnavailable
from market.sdk.verify import verify_receipt
from tests.support import tiny_llm

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

TEXTS = ["My salary is 4,200 euros.", "Nobody but the worker reads this."]
IDS = np.array([[101, 7592, 102]], dtype=np.int64)
INPUTS = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "token_type_ids": np.zeros_like(IDS)}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A market whose worker is another operator's, behind a link: whom one would seal to."""
    root = tmp_path_factory.mktemp("packages")
    packages = root / minilm.TEXT_NAME, root / "writer"
    minilm.build_text_package(packages[0])
    packages[1].mkdir()
    for file, data in tiny_llm.files().items():
        (packages[1] / file).write_bytes(data)
    drafts.draft(packages[1]).write()
    folder = tmp_path_factory.mktemp("sealed")
    options = Options(folder, keep_state=False, settle_interval_seconds=2.0, packages=packages, linked=True)
    with LocalMarket(options) as found:
        found.start()
        yield found


def worker_of(local):
    return local.accounts["worker"].address


def test_texts_are_answered_as_in_the_open_and_the_receipt_verifies(local, market):
    in_the_open = market.embed("minilm-text", TEXTS)
    sealed = market.embed("minilm-text", TEXTS, sealed=True)
    np.testing.assert_allclose(sealed.vectors, in_the_open.vectors, atol=1e-5)
    assert sealed.outcome.charged >= in_the_open.outcome.charged > 0
    assert sealed.outcome.answer_key
    settled = market.wait_for_settlement(sealed.outcome.paper)
    assert verify_receipt(settled, local.chain, channel=market.channel().channel).valid


def test_tensors_too_and_without_waiting_for_each_other(local, market, papers):
    async def ask():
        kept = market.channel()
        async with AsyncMarket(local.gateway_url, market.wallet, papers=papers, window=100_000) as client:
            client.use_channel(kept.channel, kept.domain)
            return await client.infer(minilm.NAME, INPUTS, sealed=True, worker=checksum(worker_of(local)))

    outcome = asyncio.run(ask())
    beside = market.infer(minilm.NAME, INPUTS)
    for name, array in beside.outputs.items():
        np.testing.assert_allclose(outcome.outputs[name], array, atol=1e-5)
    assert outcome.charged == beside.charged


def test_a_chat_is_answered_whole(market):
    messages = [{"role": "user", "content": "My number is 0815."}]
    in_the_open = market.chat("writer", messages, max_tokens=12, temperature=0)
    sealed = market.chat("writer", messages, max_tokens=12, temperature=0, sealed=True)
    assert sealed.text == in_the_open.text
    assert sealed.outcome.charged == in_the_open.outcome.charged, "the rest of the ceiling is given back"
    with pytest.raises(SealingUnavailable):
        market.chat("writer", messages, stream=True, sealed=True)
    with pytest.raises(GatewayRefused) as refused:
        market.chat("writer", messages, max_tokens=12, temperature=-7.25, sealed=True)
    assert refused.value.code == "inputs-refused"
    assert "7.25" not in refused.value.detail


def test_the_command_seals(local, market):
    local.save_network_file()
    arguments = ["infer", "minilm-text", "--text", TEXTS[0], "--sealed", "--json", "--data-dir", str(local.data_dir)]
    done = CliRunner().invoke(app, ["channel", "open", "0.10", "--data-dir", str(local.data_dir)])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.output)["outputs"]["embeddings"][0]) == 384


def test_nothing_of_it_lies_in_the_gateways_files(local, market):
    secret = "a secret sentence that must not be found anywhere 8271"
    market.embed("minilm-text", [secret], sealed=True)
    market.embed("minilm-text", ["an open sentence that is not looked for"])
    for path in local.data_dir.rglob("*"):
        if path.is_file() and path.suffix in (".db", ".log", ".db-wal", ".aof", ".rdb", ""):
            assert secret.encode() not in path.read_bytes(), path


def post(local, market, body, tail, **headers):
    kept = market.catch_up()
    ceiling = kept.charged + 50_000
    market.papers.signed(kept.channel_id, ceiling)
    head = json.dumps(body).encode()
    return httpx.post(
        f"{local.gateway_url}/v2/models/{minilm.NAME}/infer",
        content=head + tail,
        headers={
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
            "Market-Voucher": market.wallet.voucher_header(kept.channel, ceiling, kept.domain),
            **headers,
        },
        timeout=30,
    )


def wire(asked, outputs=None):
    (tensor,) = asked.tensors
    row = {"name": "sealed", "datatype": "UINT8", "shape": list(tensor.shape)}
    body = {"inputs": [{**row, "parameters": {"binary_data_size": len(tensor.data)}}], "parameters": asked.parameters}
    return {**body, **({"outputs": outputs} if outputs else {})}, bytes(tensor.data)


@pytest.fixture
def public(local, market):
    info = market.model(minilm.NAME)
    return info, key_of(info.sealing[worker_of(local)], worker_of(local), local.chain.domain)


def test_any_client_may_seal_and_ask_for_bytes(local, market, public):
    info, key = public
    tensors = [Tensor.from_numpy(name, array) for name, array in INPUTS.items()]
    asked = seal_request(key, info.model_id, tensors, {}, units=1)
    body, tail = wire(asked, [{"name": "sealed", "parameters": {"binary_data": True}}])
    answer = post(local, market, body, tail)
    assert answer.status_code == 200, answer.text
    data = answer.content[int(answer.headers["inference-header-content-length"]) :]
    outputs, _ = open_answer(asked.answer_key, info.model_id, [Tensor("sealed", "UINT8", (len(data),), data)])
    assert {tensor.name for tensor in outputs} == set(market.infer(minilm.NAME, INPUTS).outputs)


def test_what_cannot_be_served_costs_nothing(local, market, public):
    info, key = public
    tensors = [Tensor.from_numpy(name, array) for name, array in INPUTS.items()]
    two_rows = [Tensor.from_numpy(name, np.repeat(array, 2, axis=0)) for name, array in INPUTS.items()]
    stranger = WorkersKey(PrivateKey(b"\x09" * 32)).signed(local.chain.domain)[:32]
    before = market.catch_up().charged
    for asked, code in [
        (seal_request(stranger, info.model_id, tensors, {}, units=1), "inputs-refused"),
        (seal_request(key, b"\x01" * 32, tensors, {}, units=1), "inputs-refused"),
        (seal_request(key, info.model_id, two_rows, {}, units=1), "inputs-refused"),
        (seal_request(key, info.model_id, tensors[:1], {}, units=1), "inputs-refused"),
        (seal_request(key, info.model_id, tensors, {"top_k": 1}, units=1), "inputs-refused"),
    ]:
        answer = post(local, market, *wire(asked))
        assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
    assert market.catch_up().charged == before
    assert market.infer(minilm.NAME, INPUTS).charged, "the worker serves on and is not blamed"


def test_who_cannot_be_sealed_to_is_named(market, monkeypatch):
    with pytest.raises(SealingUnavailable) as refused:
        market.infer(minilm.NAME, INPUTS, sealed=True, worker="0x" + "11" * 20)
    assert refused.value.field == "worker"
    with pytest.raises(SealingUnavailable):
        market.infer(minilm.NAME, INPUTS, sealed=True, hedge=True)
    with pytest.raises(GatewayRefused):
        market.infer("no-such-model", INPUTS, sealed=True)
    info = market.model(minilm.NAME)
    forged = {worker: b"\x01" * 32 + signed[32:] for worker, signed in info.sealing.items()}
    known = market._kernel._models
    monkeypatch.setitem(known, minilm.NAME, (known[minilm.NAME][0], replace(info, sealing=forged)))
    with pytest.raises(GatewayMisbehaved) as caught:
        market.infer(minilm.NAME, INPUTS, sealed=True)
    assert caught.value.field == "sealing"
