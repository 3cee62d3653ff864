"""The way through the queue's tasks and a real Redis: partial results, the final one, and the key that stops a stream."""

import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis

pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")

import numpy as np

from contracts.protocol.messages import Pack, cancel_key, decode_results, encode_pack
from contracts.protocol.metering import ceiling_units
from contracts.protocol.money import split_price
from contracts.protocol.tensors import Tensor, decode_tensors
from market.devnet.process import Supervisor
from market.devnet.services import start_redis
from tests.support import models, tiny_llm
from tests.support.worker import DOMAIN, FEE, GATEWAY, ROYALTY, WORKER, FakeChain, make_job
from workers import tasks
from workers.admission import Admission, Served
from workers.execution import Executor
from workers.models.sessions import SessionCache
from workers.papers import Journal

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def client():
    folder = Path(tempfile.mkdtemp(prefix="generation-"))
    patch = pytest.MonkeyPatch()
    patch.delenv("MARKET_REDIS_URL", raising=False)
    try:
        with Supervisor(folder / "logs", folder) as supervisor:
            yield redis.Redis.from_url(start_redis(supervisor, folder))
    finally:
        patch.undo()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def node(client, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "source"
    package = models.fetched(folder, tiny_llm.package(folder))
    served = {package.model_id: Served(package, 1)}
    admission = Admission(
        domain=DOMAIN, gateways=frozenset({GATEWAY.address}), served=served, max_fee_ppm=FEE, chain=FakeChain()
    )
    sessions = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    executor = Executor(key=WORKER, domain=DOMAIN, admission=admission, served=served, sessions=sessions)
    journal = Journal(folder.parent / "papers.db", domain=DOMAIN, operator=bytes(20))
    made = SimpleNamespace(redis=client, key=WORKER, executor=executor, journal=journal, package=package)
    before = list(tasks._joined)
    tasks.join(made, SimpleNamespace(in_flight=0))
    yield made
    tasks._joined[:] = before
    sessions.close()
    journal.close()


def send(node, prompt, *, reply_to, stream, **parameters):
    tensors = [Tensor.from_numpy("prompt", np.array([prompt], dtype=object))]
    units = ceiling_units(node.package.manifest, tensors, parameters)
    split = split_price(units, ROYALTY, FEE)
    job, _ = make_job(
        node.package.manifest,
        tensors,
        parameters=parameters,
        units=units,
        unit_price=1,
        price=units,
        worker_amount=split.worker_amount,
        owner_amount=split.owner_amount,
        cumulative=10_000,
        stream=stream,
        reply_to=reply_to,
    )
    return job


def hear(client, name):
    results = []
    while not results or not results[-1].final:
        popped = client.blpop([name], timeout=30)
        assert popped is not None, "no result came"
        results += decode_results(popped[1])
    return results


def text(result):
    return next(t.to_numpy()[0].decode() for t in decode_tensors(result.outputs)[0] if t.name == "text")


def test_a_stream_comes_in_pieces_on_the_reply_list(node, client):
    job = send(node, "A", reply_to="reply:a", stream=True, temperature=0, max_tokens=6)
    tasks.run(encode_pack(Pack((job,))))
    *pieces, final = hear(client, "reply:a")
    assert [text(piece) for piece in pieces] == list("BCDEFG")
    assert (text(final), final.units, final.ok) == ("BCDEFG", 7, True)
    assert node.executor.generations.drain(10)
    assert node.journal.counts()[0] == 1


def test_the_gateways_key_says_which_streams_stop_and_what_was_sent(node, client):
    job, other = (send(node, prompt, reply_to="x", stream=True) for prompt in "AB")
    assert tasks._cancelled(client, [job, other]) == [None, None]
    client.set(cancel_key(job.request_id, job.attempt), "17")
    assert tasks._cancelled(client, [job, other]) == [17, None]
    client.set(cancel_key(job.request_id, job.attempt), "junk")
    assert tasks._cancelled(client, [job]) == [0]
