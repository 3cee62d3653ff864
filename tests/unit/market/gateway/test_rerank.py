"""/v1/rerank: documents ordered by a worker's scores, paid by tokens; what is refused costs nothing."""

from dataclasses import dataclass, replace

import httpx
import numpy as np
import pytest

from contracts.protocol.errors import Retry
from contracts.protocol.hashing import sha256
from contracts.protocol.manifest import Manifest, TensorSpec
from contracts.protocol.messages import Job, Result
from contracts.protocol.pricing import Unit
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import Tensor, decode_tensors
from market.sdk.papers import SignedReceipt
from tests.support.gateway import app_of, payment
from tests.support.generation import FILES, announce, signed
from tests.support.money import World

PRICE = 10
DOCUMENTS = ["no match", "find me here", "me", "find me here"]


@dataclass
class FakeRanker:
    """Scores a pair by the words that both texts have; one token a word and three around each pair."""

    key: PrivateKey
    price: int = PRICE
    served: int = 0
    rows: int | None = None
    fail: Result | None = None

    async def plain(self, job: Job) -> Result:
        self.served += 1
        if self.fail is not None:
            return replace(self.fail, request_id=job.request_id, attempt=job.attempt)
        given = {tensor.name: tensor.to_numpy() for tensor in decode_tensors(job.inputs or b"")[0]}
        pairs = [(a.split(), b.split()) for a, b in zip(given["query"], given["text"], strict=True)][: self.rows]
        scores = np.array([[len(set(a) & set(b)) / 10] for a, b in pairs], np.float32)
        tokens = np.array([len(a) + len(b) + 3 for a, b in pairs], np.int64)
        outputs = [Tensor.from_numpy("scores", scores), Tensor.from_numpy("tokens", tokens)]
        return signed(job, self.key, outputs, int(tokens.sum()))


@pytest.fixture
async def world():
    text = TensorSpec("text", "BYTES", (-1,))
    made = World(
        model=Manifest(
            task="text-ranking",
            entry="model.onnx",
            files=FILES,
            inputs=(text, TensorSpec("query", "BYTES", (-1,))),
            outputs=(TensorSpec("scores", "FP32", (-1, 1)), TensorSpec("tokens", "INT64", (-1,))),
            unit=Unit.TOKEN,
            batch_axis=0,
            max_batch=8,
            tokenizer="tokenizer.json",
            options={"max_tokens": 64},
        )
    )
    made.ranker = FakeRanker(PrivateKey(sha256(b"w1")))
    await announce(made, made.ranker)
    return made


@pytest.fixture
async def http(world):
    transport = httpx.ASGITransport(app_of(world), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=payment()) as client:
        yield client


async def rerank(http, **body) -> httpx.Response:
    return await http.post("/v1/rerank", json={"model": "tiny", "query": "find me", "documents": DOCUMENTS, **body})


async def test_documents_come_best_first_and_their_tokens_are_paid(http, world):
    answer = await rerank(http)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [(row["index"], round(row["relevance_score"], 3)) for row in body["results"]] == [
        (1, 0.2),
        (3, 0.2),
        (2, 0.1),
        (0, 0.0),
    ]
    assert "document" not in body["results"][0]
    tokens = sum(2 + len(text.split()) + 3 for text in DOCUMENTS)
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert answer.headers["Market-Charged"] == str(tokens * PRICE)
    paper = SignedReceipt.from_header(answer.headers["Market-Receipt"], model="tiny")
    assert (paper.receipt.price, paper.receipt.worker) == (tokens * PRICE, world.ranker.key.address)


async def test_the_best_only_and_with_their_texts(http):
    answer = await rerank(http, documents=["no", {"text": "find me"}, "me"], top_n=2, return_documents=True)
    assert [(row["index"], row["document"]) for row in answer.json()["results"]] == [
        (1, {"text": "find me"}),
        (2, {"text": "me"}),
    ]


@pytest.mark.parametrize(
    ("body", "code", "status", "param"),
    [
        ({"query": ""}, "invalid-request", 400, "query"),
        ({"query": ["a"]}, "invalid-request", 400, "query"),
        ({"documents": []}, "invalid-request", 400, "documents"),
        ({"documents": "a"}, "invalid-request", 400, "documents"),
        ({"documents": ["a", ""]}, "invalid-request", 400, "documents[1]"),
        ({"documents": [{"title": "a"}]}, "invalid-request", 400, "documents[0]"),
        ({"documents": ["a"] * 9}, "payload-too-large", 413, "documents"),
        ({"top_n": 0}, "invalid-request", 400, "top_n"),
        ({"return_documents": 1}, "invalid-request", 400, "return_documents"),
        ({"model": "nobody"}, "unknown-model", 404, "model"),
        ({"nonsense": 1}, "invalid-request", 400, "nonsense"),
    ],
)
async def test_bad_requests_are_named_and_free(http, world, body, code, status, param):
    answer = await rerank(http, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), answer.text
    await world.service.close()
    account = await world.account()
    assert (account.charged, account.reserved, world.ranker.served) == (0, 0, 0)


@pytest.mark.parametrize(("field", "param"), [("text", "documents"), ("inputs", "documents"), ("query", "query")])
async def test_what_the_worker_refuses_is_named_as_the_client_named_it(http, world, field, param):
    world.ranker.fail = Result(
        b"", "0", ok=False, code="inputs-refused", retry=Retry.NEVER, detail="text 1 has 70 tokens.", field=field
    )
    answer = await rerank(http)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "inputs-refused", param)
    assert error["message"].startswith(f"{param}: text 1 has 70 tokens. ")


async def test_a_model_of_another_task_is_refused(http):
    answer = await http.post("/v1/embeddings", json={"model": "tiny", "input": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong-task")


async def test_scores_for_other_documents_are_the_workers_fault(http, world):
    world.ranker.rows = 3
    answer = await rerank(http)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "worker-failed")
