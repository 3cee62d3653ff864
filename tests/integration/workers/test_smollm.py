"""A real chat model through a worker: token by token what onnxruntime-genai gives in process."""

import json
import os

import numpy as np
import pytest

from contracts.protocol.pricing import Unit
from contracts.protocol.tensors import Tensor
from tests.support import llm, models
from workers.models.generation.request import INPUTS, LOGPROBS, OUTPUTS, read_request
from workers.models.generation.trial import run_trials
from workers.models.sessions import SessionCache

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
og = pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")
FOLDER = llm.find()
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(FOLDER is None, reason="no real language model here: set MARKET_TEST_LLM to its folder"),
]

CHAT = [{"role": "user", "content": "Name three fruits and say of each what colour it has."}]
TOKENS = 40


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm") / "source"
    manifest = models.write(
        folder,
        {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.is_file()},
        task="text-generation",
        entry="genai_config.json",
        inputs=INPUTS,
        outputs=(*OUTPUTS, LOGPROBS),
        unit=Unit.TOKEN,
        batch_axis=None,
        tokenizer="tokenizer.json",
        options={"context_length": 2_048},
    )
    cache = SessionCache(provider="cpu", threads=0, memory_budget_bytes=1 << 30)
    yield cache.get(models.fetched(folder, manifest))
    cache.close()


@pytest.fixture(scope="module")
def reference():
    model = og.Model(str(FOLDER))
    tokenizer = og.Tokenizer(model)
    tokens = tokenizer.encode(tokenizer.apply_chat_template(json.dumps(CHAT), add_generation_prompt=True))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(tokens) + TOKENS, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(tokens)
    while not generator.is_done():
        generator.generate_next_token()
    return len(tokens), tokenizer.decode(generator.get_sequence(0)[len(tokens) :])


def ask(model, *, count=1, **parameters):
    prompt = [Tensor.from_numpy("prompt", np.array([json.dumps(CHAT)], dtype=object))]
    request = read_request(model.manifest, prompt, {"format": "chat", "max_tokens": TOKENS, **parameters})
    return run_trials(model, request, count=count, seconds=120)


def test_greedy_text_is_the_runtimes_own(model, reference):
    (heard,) = ask(model, temperature=0)
    prompt_tokens, text = reference
    assert heard.text == text
    assert heard.end.prompt_tokens == prompt_tokens


@pytest.fixture(scope="module")
def reference_of_a_batch():
    model = og.Model(str(FOLDER))
    tokenizer = og.Tokenizer(model)
    tokens = tokenizer.encode(tokenizer.apply_chat_template(json.dumps(CHAT), add_generation_prompt=True))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(tokens) + TOKENS, do_sample=False, batch_size=3)
    generator = og.Generator(model, params)
    generator.append_tokens(np.tile(tokens, (3, 1)))
    while not generator.is_done():
        generator.generate_next_token()
    return {tokenizer.decode(generator.get_sequence(i)[len(tokens) :]) for i in range(3)}


def test_generations_advance_together(model):
    assert model.together


def test_with_a_seed_texts_are_those_of_the_runtimes_own_batch_whoever_is_beside_them(model, reference_of_a_batch):
    together = {one.text for one in ask(model, temperature=0, seed=1, count=3)}
    assert together == reference_of_a_batch
    assert {one.text for one in ask(model, temperature=0, seed=1)} == together


def test_with_a_seed_a_drawn_text_is_the_same_alone_and_beside_others(model):
    (alone,) = ask(model, seed=7)
    assert {one.text for one in ask(model, seed=7, count=3)} == {alone.text}
    assert ask(model, seed=8)[0].text != alone.text


def test_a_text_with_a_schema_is_json_of_it(model):
    schema = {
        "type": "object",
        "properties": {"fruit": {"type": "string", "maxLength": 12}, "count": {"type": "integer", "maximum": 99}},
        "required": ["fruit", "count"],
        "additionalProperties": False,
    }
    for heard in ask(model, json_schema=json.dumps(schema), seed=3, count=2):
        found = json.loads(heard.text)
        assert isinstance(found["fruit"], str)
        assert isinstance(found["count"], int)
        assert heard.end.reason == "stop"


def test_it_stops_where_it_is_told(model, reference):
    stop = reference[1][10:14]
    (heard,) = ask(model, temperature=0, stop=json.dumps([stop]))
    assert heard.text == reference[1][: reference[1].index(stop)]
    assert heard.end.reason == "stop"
