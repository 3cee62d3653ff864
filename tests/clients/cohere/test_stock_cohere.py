"""Cohere's stock client, both generations, sync and asyncio, ranks by base URL and key; so does plain `requests`.

The cross-encoder is a small one made here, served by its manifest alone; what it says is held against onnxruntime.
"""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass

import cohere
import numpy as np
import pytest
import requests
from cohere.core.api_error import ApiError

from contracts.protocol.money import ATOMIC_PER_TOKEN
from market.demo.network import TOKEN_PRICE, LocalMarket, Options
from market.sdk import drafts
from market.sdk.keys import Keys
from tests.support import models

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

DEPOSIT = 5 * ATOMIC_PER_TOKEN
NAME = "ranker"
QUERY, DOCUMENTS = "the cat", ["the dog ran far away", "a cat sat on the mat", "home"]


@dataclass(frozen=True)
class Ranking:
    """A running market with a cross-encoder, a key, and what the key has spent."""

    url: str
    key: str
    keys: Keys

    def spent(self) -> int:
        [row] = self.keys.all()
        return int(row.spent)


@pytest.fixture(scope="module")
def ranking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranking]:
    folder = tmp_path_factory.mktemp("cohere")
    package = folder / NAME
    package.mkdir()
    (package / "model.onnx").write_bytes(models.ranker())
    (package / "tokenizer.json").write_text(models.pair_tokenizer().to_str())
    drafts.draft(package, task="text-ranking", options={"max_tokens": 16}).write()
    with LocalMarket(Options(folder / "net", keep_state=False, packages=(package,))) as local:
        local.start()
        with local.client(DEPOSIT) as market:
            keys = Keys(market)
            created = keys.create(limit=1_000_000, name="ranking")
            yield Ranking(local.gateway_url, created.secret, keys)


@pytest.fixture(params=[cohere.Client, cohere.ClientV2], ids=["v1", "v2"])
def client(request, ranking):
    return request.param(api_key=ranking.key, base_url=ranking.url)


def expected() -> list[tuple[int, float]]:
    """Return places and scores as onnxruntime gives them in this process, one pair at a time."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    session = onnxruntime.InferenceSession(models.ranker(), providers=["CPUExecutionProvider"])
    tokenizer, scores = models.pair_tokenizer(), []
    for document in DOCUMENTS:
        coded = tokenizer.encode(QUERY, document)
        given = {"input_ids": coded.ids, "attention_mask": coded.attention_mask, "token_type_ids": coded.type_ids}
        [[logit]] = session.run(None, {name: np.array([row], np.int64) for name, row in given.items()})[0]
        scores.append(1 / (1 + np.exp(-float(logit))))
    return sorted(enumerate(scores), key=lambda one: -one[1])


def tokens() -> int:
    return sum(len(models.pair_tokenizer().encode(QUERY, document).ids) for document in DOCUMENTS)


def test_the_order_and_the_scores_are_the_models(client, ranking):
    before = ranking.spent()
    answer = client.rerank(model=NAME, query=QUERY, documents=DOCUMENTS)
    assert [one.index for one in answer.results] == [index for index, _ in expected()]
    scores = [one.relevance_score for one in answer.results]
    np.testing.assert_allclose(scores, [score for _, score in expected()], atol=1e-6)
    assert len(set(scores)) == 3
    assert ranking.spent() == before + tokens() * TOKEN_PRICE


def test_the_best_alone(client):
    [best] = client.rerank(model=NAME, query=QUERY, documents=DOCUMENTS, top_n=1).results
    assert best.index == expected()[0][0]


def test_the_first_client_gets_its_documents_back(ranking):
    client = cohere.Client(api_key=ranking.key, base_url=ranking.url)
    documents = [{"text": text} for text in DOCUMENTS]
    answer = client.rerank(model=NAME, query=QUERY, documents=documents, return_documents=True)
    assert [one.document.text for one in answer.results] == [DOCUMENTS[index] for index, _ in expected()]


async def test_many_side_by_side(ranking):
    before = ranking.spent()
    async with cohere.AsyncClientV2(api_key=ranking.key, base_url=ranking.url) as client:
        asked = (client.rerank(model=NAME, query=QUERY, documents=DOCUMENTS) for _ in range(8))
        answers = await asyncio.gather(*asked)
    assert {tuple(one.index for one in answer.results) for answer in answers} == {tuple(i for i, _ in expected())}
    assert ranking.spent() == before + 8 * tokens() * TOKEN_PRICE


def test_requests_does_as_well(ranking):
    body = {"model": NAME, "query": QUERY, "documents": DOCUMENTS}
    for path in ("/v1/rerank", "/v2/rerank"):
        answer = requests.post(
            ranking.url + path, json=body, headers={"Authorization": f"Bearer {ranking.key}"}, timeout=30
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["total_tokens"] == tokens()
        assert int(answer.headers["Market-Charged"]) == tokens() * TOKEN_PRICE


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"model": "nobody"}, 404, "unknown-model"),
        ({"model": "minilm"}, 400, "wrong-task"),
        ({"documents": []}, 400, "invalid-request"),
        ({"documents": ["a"] * 65}, 413, "payload-too-large"),
        ({"top_n": 0}, 400, "invalid-request"),
    ],
)
def test_refusals_are_the_clients_own_errors_and_free(client, ranking, changes, status, code):
    before = ranking.spent()
    with pytest.raises(ApiError) as refused:
        client.rerank(**{"model": NAME, "query": QUERY, "documents": DOCUMENTS, **changes})
    body = refused.value.body
    assert (refused.value.status_code, body.get("code") or body["error"]["code"]) == (status, code)
    assert ranking.spent() == before
