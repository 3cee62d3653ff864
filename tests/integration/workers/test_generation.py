"""Text generation in its own process: a tiny model by onnxruntime-genai, jobs as a gateway sends them."""

import json
import os
import secrets
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")

from contracts.protocol.errors import Retry
from contracts.protocol.metering import ceiling_units
from contracts.protocol.money import split_price
from contracts.protocol.signing import recover
from contracts.protocol.tensors import Tensor, decode_tensors
from tests.support import demands, models, tiny_llm
from tests.support.worker import DOMAIN, FEE, GATEWAY, ROYALTY, WORKER, FakeChain, make_job
from workers import execution
from workers.admission import Admission, Served
from workers.errors import ModelUnusable, UnsafePackage
from workers.execution import Executor
from workers.models import sandbox
from workers.models.sandbox import Confinement
from workers.models.sessions import SessionCache

pytestmark = pytest.mark.integration

UNIT_PRICE = 3
SCRIPT = tiny_llm.SCRIPT


class Market:
    """A worker's executor, and what a gateway would hear of it."""

    def __init__(self, sessions, *packages):
        served = {package.model_id: Served(package, UNIT_PRICE) for package in packages}
        admission = Admission(
            domain=DOMAIN, gateways=frozenset({GATEWAY.address}), served=served, max_fee_ppm=FEE, chain=FakeChain()
        )
        self.executor = Executor(key=WORKER, domain=DOMAIN, admission=admission, served=served, sessions=sessions)
        self.package = packages[0]
        self.heard = threading.Condition()
        self.results, self.work, self.times, self.cancelled = [], [], [], {}
        self.executor.generations.attach(self._deliver, lambda jobs: [self.cancelled.get(j.request_id) for j in jobs])

    def _deliver(self, served, work):
        with self.heard:
            self.results += [result for _, result in served]
            self.times += [time.monotonic()] * len(served)
            self.work += work
            self.heard.notify_all()

    def send(self, *jobs):
        results, work = self.executor.run(jobs)
        self.work += work
        return results

    def partials(self, job):
        return [r for r in self.results if r.request_id == job.request_id and not r.final]

    def final(self, job, seconds=30):
        def found():
            return next((r for r in self.results if r.request_id == job.request_id and r.final), None)

        with self.heard:
            assert self.heard.wait_for(found, seconds), "no result came"
            return found()

    def ask(self, prompt, **parameters):
        job, blob = self.job(prompt, **parameters)
        refused = self.send((job, blob))[0]
        return refused or self.final(job)

    def job(self, prompt, changes=(), **parameters):
        manifest = self.package.manifest
        if not isinstance(prompt, (str, bytes)):
            parameters.setdefault("format", "chat")
            prompt = json.dumps(prompt)
        tensors = [Tensor.from_numpy("prompt", np.array([prompt], dtype=object))]
        try:
            units = ceiling_units(manifest, tensors, parameters)
        except Exception:
            units = 1_000
        price = units * UNIT_PRICE
        split = split_price(price, ROYALTY, FEE)
        terms = {
            # Who asks again by the same id is given the first answer.
            "request_id": secrets.token_bytes(32),
            "units": units,
            "unit_price": UNIT_PRICE,
            "price": price,
            "worker_amount": split.worker_amount,
            "owner_amount": split.owner_amount,
            "cumulative": 100_000,
            "voucher_amount": 100_000,
        }
        return make_job(manifest, tensors, parameters=parameters, **(terms | dict(changes)))


def outputs(result):
    assert result.ok, result
    arrays = {tensor.name: tensor.to_numpy() for tensor in decode_tensors(result.outputs)[0]}
    return {name: value[0].decode() if value.dtype == object else value for name, value in arrays.items()}


@pytest.fixture(scope="module")
def sessions():
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30, generations=4)
    yield cache
    cache.close()


@pytest.fixture(scope="module", params=["together", "in turns"])
def package(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "source"
    return models.fetched(folder, tiny_llm.package(folder, tiny_llm.files(together=request.param == "together")))


@pytest.fixture
def market(sessions, package):
    return Market(sessions, package)


def greedy(market, prompt, **parameters):
    return market.ask(prompt, temperature=0, **parameters)


def test_the_text_is_the_models_and_what_was_served_is_signed(market):
    result = greedy(market, "xyA", max_tokens=5)
    found = outputs(result)
    assert (found["text"], found["finish_reason"], found["usage"].tolist()) == ("BCDEF", "length", [3, 5])
    assert result.units == 8
    receipt = market.work[-1].receipt
    assert receipt.price == 8 * UNIT_PRICE
    assert recover(receipt.digest(DOMAIN), result.signature) == WORKER.address
    assert "logprobs" not in found


def test_it_ends_where_the_model_ends(market):
    found = outputs(greedy(market, "xy7"))
    assert (found["text"], found["finish_reason"], found["usage"].tolist()) == ("89", "stop", [3, 2])


def test_the_manifest_says_how_much_is_given_when_nobody_asks(market):
    assert outputs(greedy(market, "A"))["usage"].tolist() == [1, 40]


def test_a_stop_string_across_tokens_ends_the_text_before_it(market):
    found = outputs(greedy(market, "A", stop=json.dumps(["zzz", "GHI"])))
    assert (found["text"], found["finish_reason"]) == ("BCDEF", "stop")
    assert found["usage"].tolist() == [1, 8]


def test_a_chat_goes_through_the_packages_template(market):
    chat = [{"role": "user", "content": "a"}, {"role": "user", "content": "X"}]
    found = outputs(greedy(market, chat, max_tokens=2))
    assert (found["text"], found["usage"].tolist()) == ("YZ", [4, 2])


def test_streamed_pieces_are_whole_characters_and_add_up_to_the_text(market):
    job, blob = market.job("Y", changes={"stream": True}, temperature=0)
    assert market.send((job, blob)) == [None]
    final = outputs(market.final(job))
    pieces = [outputs(partial) for partial in market.partials(job)]
    assert (
        "".join(piece["text"] for piece in pieces) == final["text"] == SCRIPT[SCRIPT.index("Z") :][: len(final["text"])]
    )
    assert [piece["text"] for piece in pieces][:5] == ["Z", " ", "é", "日", "🎉"]
    assert [int(piece["tokens"][0]) for piece in pieces][:5] == [1, 1, 2, 3, 4]
    assert final["usage"].tolist() == [1, 40]


def test_a_text_cut_within_a_character_ends_before_it(market):
    found = outputs(greedy(market, "Z", max_tokens=4))
    assert (found["text"], found["usage"].tolist()) == (" é", [1, 4])


def test_the_same_seed_gives_the_same_text_and_another_one_another(market):
    texts = [outputs(market.ask("A", seed=seed, temperature=2.0))["text"] for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_a_single_likely_token_is_taken_whatever_the_seed(market):
    for parameters in ({"top_k": 1}, {"top_p": 0.01}):
        assert outputs(market.ask("A", seed=3, temperature=2.0, max_tokens=3, **parameters))["text"] == "BCD"


@pytest.mark.parametrize("schema", [{}, {"json_schema": '{"type": "integer"}'}], ids=["free", "schema"])
@pytest.mark.parametrize("top_k", [tiny_llm.VOCABULARY - 1, tiny_llm.VOCABULARY, tiny_llm.VOCABULARY + 1, 1 << 20])
def test_as_many_likely_tokens_as_there_are_or_more_are_all(market, top_k, schema):
    asked = {"temperature": 1, "seed": 5, "max_tokens": 5, **schema}
    assert outputs(market.ask("A", top_k=top_k, **asked))["text"] == outputs(market.ask("A", **asked))["text"]


def test_logprobs_are_the_logarithms_of_the_chosen_tokens_chances(market):
    found = outputs(greedy(market, "A", max_tokens=4, logprobs=True))
    assert found["logprobs"].shape == (4,)
    assert ((found["logprobs"] < 0) & (found["logprobs"] > np.log(0.5))).all()


def test_the_likeliest_tokens_come_with_their_logarithms(market):
    found = market.ask("A", temperature=0, max_tokens=4, logprobs=True, top_logprobs=3)
    arrays = {tensor.name: tensor.to_numpy() for tensor in decode_tensors(found.outputs)[0]}
    assert arrays["top_tokens"].shape == arrays["top_logprobs"].shape == (4, 3)
    assert [row[0] for row in arrays["top_tokens"]] == [b"B", b"C", b"D", b"E"]
    np.testing.assert_allclose(arrays["top_logprobs"][:, 0], arrays["logprobs"], rtol=1e-6)
    assert (np.diff(arrays["top_logprobs"], axis=1) <= 0).all()
    whole = market.ask("A", temperature=0, max_tokens=1, logprobs=True, top_logprobs=20)
    (chances,) = (t.to_numpy() for t in decode_tensors(whole.outputs)[0] if t.name == "top_logprobs")
    assert 0.9 < np.exp(chances).sum() < 1


def test_outputs_that_nobody_asked_numbers_for_are_empty(market):
    job, blob = market.job(
        "A", changes={"outputs": ("text", "top_tokens", "top_logprobs")}, temperature=0, max_tokens=2
    )
    assert market.send((job, blob)) == [None]
    arrays = {tensor.name: tensor.to_numpy() for tensor in decode_tensors(market.final(job).outputs)[0]}
    assert arrays["top_tokens"].shape == arrays["top_logprobs"].shape == (0, 0)


def test_several_texts_for_one_prompt_are_one_job_and_the_prompt_is_paid_once(market):
    result = market.ask("A", temperature=2.0, seed=7, max_tokens=6, n=3, logprobs=True)
    arrays = {tensor.name: tensor.to_numpy() for tensor in decode_tensors(result.outputs)[0]}
    texts, (prompt, *made) = [one.decode("utf-8", "replace") for one in arrays["text"]], arrays["usage"].tolist()
    assert prompt == 1
    assert result.units == 1 + sum(made) <= 1 + 3 * 6
    assert len(arrays["logprobs"]) == sum(made)
    each = [outputs(market.ask("A", temperature=2.0, seed=seed, max_tokens=6))["text"] for seed in (7, 8, 9)]
    assert texts == each
    assert len(set(texts)) > 1
    assert len(market.work) == 4


def test_pieces_of_several_texts_say_whose_they_are(market):
    job, blob = market.job("X", changes={"stream": True}, temperature=0, max_tokens=8, n=2)
    assert market.send((job, blob)) == [None]
    final = {tensor.name: tensor.to_numpy() for tensor in decode_tensors(market.final(job).outputs)[0]}
    streamed = ["", ""]
    for piece in market.partials(job):
        found = {tensor.name: tensor.to_numpy() for tensor in decode_tensors(piece.outputs)[0]}
        streamed[int(found["index"][0])] += found["text"][0].decode()
    assert streamed == [one.decode() for one in final["text"]] == ["YZ é日"[: len(streamed[0])]] * 2
    assert final["finish_reason"].tolist() == [b"length"] * 2


def test_generations_go_on_together_and_each_gets_its_own(market):
    alone = [outputs(greedy(market, prompt))["text"] for prompt in "AKZ"]
    jobs = [market.job(prompt, changes={"seq": i}, temperature=0) for i, prompt in enumerate("AKZAKZAKZ")]
    assert market.send(*jobs) == [None] * 9
    assert [outputs(market.final(job))["text"] for job, _ in jobs] == alone * 3
    assert market.executor.generations.active == 0


def test_a_late_comer_does_not_wait_for_the_end_of_the_others(market):
    long, blob = market.job("A", changes={"stream": True}, temperature=0, max_tokens=200, seed=1)
    short, short_blob = market.job("C", changes={"stream": True}, temperature=0, max_tokens=2)
    market.send((long, blob), (short, short_blob))
    market.final(long)
    market.final(short)
    order = [r.request_id for r in market.results]
    assert order.index(short.request_id) < len(order) - 1 - order[::-1].index(long.request_id)


BAD = {
    "too long": ("A" * 256, {}, "prompt", "256 tokens; the model's context is 256"),
    "much too long": ("A" * 9_000, {}, "prompt", "9000 bytes"),
    "not UTF-8": (b"\xff", {}, "prompt", "not UTF-8"),
    "unknown parameter": ("A", {"beam": 2}, "parameters.beam", "no parameter 'beam'"),
    "max_tokens": ("A", {"max_tokens": 0}, "max_tokens", "max_tokens is 0"),
    "no texts": ("A", {"n": 0}, "n", "n is 0"),
    "too many texts": ("A", {"n": 17}, "n", "n is 17"),
    "half a surrogate pair": ("A", {"stop": '["\\ud800"]'}, "parameters.stop", "surrogate"),
    "top_logprobs alone": ("A", {"top_logprobs": 2}, "parameters.top_logprobs", "with logprobs only"),
    "too many likeliest": ("A", {"logprobs": True, "top_logprobs": 21}, "parameters.top_logprobs", "from 0 to 20"),
}


@pytest.mark.parametrize(("prompt", "parameters", "field", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_and_costs_nothing(market, prompt, parameters, field, words):
    good = market.job("A", temperature=0)
    bad = market.job(prompt, **parameters)
    results = market.send(good, bad)
    result = results[1] or market.final(bad[0])
    assert (result.ok, result.code, result.field, result.retry) == (False, "inputs-refused", field, Retry.NEVER)
    assert words in result.detail
    assert outputs(market.final(good[0]))["text"].startswith("BCD")
    assert len(market.work) == 1


def test_a_fault_in_starting_one_text_takes_no_other_with_it(market, monkeypatch):
    good, bad = market.job("A", temperature=0), market.job("A", seed=7)
    read = execution.read_request

    def stumble(manifest, tensors, parameters, **more):
        if parameters.get("seed") == 7:
            raise ZeroDivisionError
        return read(manifest, tensors, parameters, **more)

    monkeypatch.setattr(execution, "read_request", stumble)
    results = market.send(bad, good)
    assert (results[0].ok, results[0].code) == (False, "execution-failed")
    assert outputs(market.final(good[0]))["text"].startswith("BCD")


def test_the_longest_prompt_leaves_room_for_one_token(market):
    found = outputs(greedy(market, "A" * 255, max_tokens=50))
    assert (found["text"], found["finish_reason"], found["usage"].tolist()) == ("B", "length", [255, 1])


@pytest.fixture(scope="module", params=["together", "in turns"])
def slowed(request, tmp_path_factory):
    """The same model with its host made slow, so that there is time to interrupt it."""
    folder = tmp_path_factory.mktemp("slow") / "source"
    contents = tiny_llm.files(together=request.param == "together")
    package = models.fetched(folder, tiny_llm.package(folder, contents, license="slow"))
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30, generations=2)
    path = os.environ.get("PYTHONPATH", "")
    hook = tmp_path_factory.mktemp("hook")
    (hook / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'workers.models.generation.host' in sys.orig_argv:\n"
        "    import time, onnxruntime_genai as og\n"
        "    class Slow(og.Generator):\n"
        "        def generate_next_token(self):\n"
        "            time.sleep(0.05)\n"
        "            super().generate_next_token()\n"
        "    og.Generator = Slow\n"
        "    from workers.models.generation import decoder\n"
        "    class SlowDecoder(decoder.Decoder):\n"
        "        def step(self, *given):\n"
        "            time.sleep(0.05)\n"
        "            return super().step(*given)\n"
        "    decoder.Decoder = SlowDecoder\n"
    )
    os.environ["PYTHONPATH"] = str(hook)
    cache.get(package)
    yield cache, package
    os.environ["PYTHONPATH"] = path
    cache.close()


def wait_for(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def slow(slowed):
    """The slow model, of whose ends in other tests nothing is held against it."""
    cache, _ = slowed
    cache.deaths._seen.clear()
    return slowed


def test_a_client_that_left_pays_for_what_it_was_sent(slow):
    market = Market(*slow)
    job, blob = market.job("A", changes={"stream": True}, temperature=0, max_tokens=100)
    market.send((job, blob))
    wait_for(lambda: len(market.partials(job)) >= 5)
    market.cancelled[job.request_id] = 3
    result = market.final(job)
    found = outputs(result)
    assert (found["text"], found["finish_reason"], found["usage"].tolist()) == ("BCD", "cancelled", [1, 3])
    assert (result.units, market.work[-1].receipt.price) == (4, 4 * UNIT_PRICE)
    count = len(market.results)
    time.sleep(0.2)
    assert len(market.results) == count


def test_a_client_that_left_before_the_first_token_pays_nothing(slow):
    market = Market(*slow)
    job, blob = market.job("A", changes={"stream": True}, temperature=0, max_tokens=100)
    market.cancelled[job.request_id] = 0
    market.send((job, blob))
    assert (market.final(job).code, market.work) == ("job-cancelled", [])


def test_of_several_texts_that_are_left_what_was_sent_is_signed(slow):
    market = Market(*slow)
    job, blob = market.job("A", changes={"stream": True}, temperature=0, max_tokens=100, n=2)
    market.send((job, blob))
    wait_for(lambda: len(market.partials(job)) >= 6)
    market.cancelled[job.request_id] = 5
    result = market.final(job)
    found = {tensor.name: tensor.to_numpy() for tensor in decode_tensors(result.outputs)[0]}
    prompt, *made = found["usage"].tolist()
    assert (prompt, sum(made), result.units) == (1, 5, 6)
    assert [one.decode() for one in found["text"]] == ["BCDEF"[:count] for count in made]
    assert found["finish_reason"].tolist() == [b"cancelled"] * 2
    wait_for(lambda: market.executor.generations.active == 0)


def test_when_the_process_dies_all_the_texts_of_a_generation_fail_as_one(slow):
    cache, package = slow
    market = Market(cache, package)
    job, blob = market.job("A", changes={"stream": True}, temperature=0, max_tokens=100, n=3)
    market.send((job, blob))
    wait_for(lambda: len(market.partials(job)) >= 3)
    cache.get(package).kill()
    assert (market.final(job).code, market.work) == ("model-died", [])
    assert [one.final for one in market.results if one.request_id == job.request_id].count(True) == 1


def test_at_the_deadline_a_stream_ends_and_a_whole_text_fails(slow):
    market = Market(*slow)
    soon = time.time() + 1.0
    stream = market.job("A", changes={"stream": True, "deadline_at": soon}, temperature=0, max_tokens=200)
    whole = market.job("A", changes={"deadline_at": soon}, temperature=0, max_tokens=200)
    market.send(stream, whole)
    found = outputs(market.final(stream[0]))
    assert found["finish_reason"] == "length"
    assert 1 <= found["usage"][1] < 60
    assert len(found["text"]) == found["usage"][1]
    assert (market.final(whole[0]).code, len(market.work)) == ("job-too-late", 1)


def test_generations_come_and_go_within_a_batch_and_none_notices(slow):
    market = Market(*slow)
    alone = {
        prompt: outputs(market.ask(prompt, seed=5, max_tokens=20, logprobs=True)) for prompt in ("A", "Kxy", "cde")
    }
    stays, blob = market.job("A", changes={"stream": True}, seed=5, max_tokens=20, logprobs=True)
    leaves, leaving = market.job("Q" * 40, changes={"stream": True}, seed=6, max_tokens=90)
    market.send((leaves, leaving), (stays, blob))
    wait_for(lambda: len(market.partials(leaves)) >= 2)
    market.cancelled[leaves.request_id] = 2  # its row goes to another in the midst of this
    jobs = [market.job(prompt, seed=5, max_tokens=20, logprobs=True) for prompt in ("Kxy", "cde")]
    market.send(*jobs)
    for job, prompt in ((stays, "A"), (jobs[0][0], "Kxy"), (jobs[1][0], "cde")):
        found = outputs(market.final(job))
        assert (found["text"], found["usage"].tolist()) == (alone[prompt]["text"], alone[prompt]["usage"].tolist())
        np.testing.assert_allclose(found["logprobs"], alone[prompt]["logprobs"], atol=1e-4)
    assert outputs(market.final(leaves))["finish_reason"] == "cancelled"


def test_other_models_are_served_while_a_text_is_generated(slow, tmp_path):
    cache, package = slow
    folder = tmp_path / "source"
    other = models.fetched(folder, models.embedding_package(folder))
    market = Market(cache, package, other)
    job, blob = market.job("A", changes={"stream": True}, temperature=0, max_tokens=100)
    market.send((job, blob))
    wait_for(lambda: market.partials(job))
    tensors = [Tensor.from_numpy("text", np.array(["the cat"], dtype=object))]
    units = ceiling_units(other.manifest, tensors, {})
    terms = split_price(units * UNIT_PRICE, ROYALTY, FEE)
    embedding = make_job(
        other.manifest,
        tensors,
        units=units,
        unit_price=UNIT_PRICE,
        price=units * UNIT_PRICE,
        worker_amount=terms.worker_amount,
        owner_amount=terms.owner_amount,
        cumulative=1_000,
    )
    started = time.monotonic()
    (result,) = market.send(embedding)
    assert result.ok
    assert time.monotonic() - started < 2.5
    assert market.executor.generations.active == 1
    market.cancelled[job.request_id] = 1
    market.final(job)


def test_when_the_process_dies_its_generations_fail_and_the_next_starts_it_anew(slow):
    cache, package = slow
    market = Market(cache, package)
    job, blob = market.job("A", changes={"stream": True}, temperature=0, max_tokens=100)
    market.send((job, blob))
    wait_for(lambda: market.partials(job))
    cache.get(package).kill()
    result = market.final(job)
    assert (result.code, result.retry) == ("model-died", Retry.OTHER_WORKER)
    assert outputs(greedy(market, "A", max_tokens=3))["text"] == "BCD"


def test_a_process_that_hangs_is_ended_and_the_next_generation_starts_it_anew(slow, monkeypatch):
    monkeypatch.setattr("workers.generating.HANG_SECONDS", 0.5)
    cache, package = slow
    market = Market(cache, package)
    greedy(market, "A", max_tokens=1)
    os.kill(cache.get(package)._process.pid, signal.SIGSTOP)
    job, blob = market.job("A", changes={"deadline_at": time.time() + 0.5}, temperature=0, max_tokens=50)
    market.send((job, blob))
    assert market.final(job).code == "model-died"
    assert outputs(greedy(market, "A", max_tokens=3))["text"] == "BCD"


def test_results_wait_while_the_broker_is_away(slow):
    market = Market(*slow)
    down = threading.Event()
    down.set()

    def deliver(served, work):
        if down.is_set():
            raise ConnectionError
        market._deliver(served, work)

    market.executor.generations.attach(deliver, lambda jobs: [None] * len(jobs))
    job, blob = market.job("A", changes={"stream": True}, temperature=0, max_tokens=5)
    market.send((job, blob))
    wait_for(lambda: not market.executor.generations.active)
    down.clear()
    assert outputs(market.final(job))["text"] == "BCDEF"
    assert [outputs(partial)["text"] for partial in market.partials(job)] == list("BCDEF")


def test_a_job_larger_than_the_memory_goes_to_another_worker(package):
    cache = SessionCache(
        provider="cpu", threads=1, memory_budget_bytes=1 << 30, generations=2, generation_memory_bytes=50 * 128
    )
    market = Market(cache, package)
    result = greedy(market, "A", max_tokens=100)
    assert (result.code, result.retry) == ("crowded-out", Retry.OTHER_WORKER)
    assert outputs(greedy(market, "A", max_tokens=10))["text"] == "BCDEFGHIJK"
    cache.close()


def test_a_busy_model_is_not_unloaded_for_another(slow, tmp_path):
    _, package = slow
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1, generations=2)
    market = Market(cache, package)
    job, blob = market.job("A", temperature=0, max_tokens=60)
    market.send((job, blob))
    cache.get(models.fetched(tmp_path / "a", models.embedding_package(tmp_path / "a")))
    assert cache.loaded() == 2
    assert market.final(job).ok
    cache.get(models.fetched(tmp_path / "b", models.text_classifier_package(tmp_path / "b")))
    assert cache.loaded() == 1
    cache.close()


def test_a_text_keeps_to_its_schema(market):
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "yz"]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    found = outputs(market.ask("A", json_schema=json.dumps(schema), max_tokens=60, logprobs=True, seed=4))
    assert json.loads(found["text"])["a"] in ("x", "yz")
    assert found["finish_reason"] == "stop"
    assert len(found["logprobs"]) == found["usage"][1]


@pytest.mark.parametrize("schema", ["{", "[]", '{"type": "notype"}', 5])
def test_a_schema_that_is_none_is_refused_and_costs_nothing(market, schema):
    job, blob = market.job("A", json_schema=schema)
    result = market.send((job, blob))[0] or market.final(job)
    assert (result.code, result.field, market.work) == ("inputs-refused", "parameters.json_schema", [])


HEAVY = {
    "items": '{"type": "array", "items": {"type": "integer"}, "minItems": 1000000000, "maxItems": 1000000000}',
    "remainders": '{"anyOf": [{"type": "integer", "multipleOf": 997}, {"type": "integer", "multipleOf": 1009}]}',
}


@pytest.mark.parametrize("schema", HEAVY.values(), ids=HEAVY.keys())
def test_a_schema_that_would_take_the_machine_is_refused_before_the_model_hears_of_it(market, schema):
    good = market.job("A", temperature=0)
    result, _ = market.send(market.job("A", json_schema=schema), good)
    assert (result.code, result.field, result.retry) == ("inputs-refused", "parameters.json_schema", Retry.NEVER)
    assert outputs(market.final(good[0], seconds=5))["text"].startswith("BCD")


def test_a_schema_that_proves_too_large_while_it_is_followed_is_not_the_workers_fault(market):
    schema = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1_500)}}
    result = market.ask("A", json_schema=json.dumps(schema), temperature=0, max_tokens=60)
    assert (result.code, result.field, result.retry) == ("inputs-refused", "parameters.json_schema", Retry.NEVER)
    assert market.work == []


BROKEN = {
    "no model": ({"model.onnx": b"junk"}, ModelUnusable),
    "no tokenizer": ({"tokenizer.json": b"{}"}, ModelUnusable),
    "a library to load": (
        {"genai_config.json": json.dumps(tiny_llm.config(custom_ops_library="x.so")).encode()},
        UnsafePackage,
    ),
}


@pytest.mark.parametrize(("change", "error"), BROKEN.values(), ids=BROKEN.keys())
def test_a_package_that_cannot_be_served_is_refused_at_once(tmp_path, change, error):
    folder = tmp_path / "source"
    package = models.fetched(folder, tiny_llm.package(folder, tiny_llm.files() | change))
    with pytest.raises(error):
        SessionCache(provider="cpu", threads=1, memory_budget_bytes=1).get(package)


def test_which_decoders_advance_together_is_found_by_trying(tmp_path):
    for name, together in (("gqa", True), ("concat", False)):
        folder = tmp_path / name / "source"
        package = models.fetched(folder, tiny_llm.package(folder, tiny_llm.files(together=together)))
        cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1)
        assert cache.get(package).together is together
        cache.close()


def test_a_file_changed_on_this_machine_is_not_loaded(tmp_path):
    folder = tmp_path / "source"
    package = models.fetched(folder, tiny_llm.package(folder))
    (package.folder / "model.onnx").write_bytes(b"x" * len(tiny_llm.model()))
    with pytest.raises(Exception, match="changed on this machine"):
        SessionCache(provider="cpu", threads=1, memory_budget_bytes=1).get(package)


def test_the_process_is_given_nothing_of_the_worker(package, monkeypatch):
    monkeypatch.setenv("WORKER_KEYSTORE_PASSWORD", "secret")
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1)
    model = cache.get(package)
    with open(f"/proc/{model._process.pid}/environ", "rb") as environment:
        assert b"WORKER_" not in environment.read()
    cache.close()
    wait_for(lambda: model._process.poll() is not None)


def test_a_provider_that_the_runtime_lacks_is_said_and_the_cpu_takes_the_model(package):
    cache = SessionCache(provider="cuda", threads=1, memory_budget_bytes=1 << 30)
    assert cache.get(package).provider == "cpu"
    assert outputs(greedy(Market(cache, package), "A", max_tokens=2))["text"] == "BC"
    cache.close()


def test_results_name_their_request(market):
    job, blob = market.job("A", temperature=0)
    job = replace(job, attempt="7")
    market.send((job, blob))
    assert market.final(job).attempt == "7"


@pytest.mark.parametrize("box", ["alone", "bubblewrap"])
def test_a_strangers_texts_are_generated_in_a_sandbox(package, sessions, box):
    program = demands.sandbox() if box == "bubblewrap" else None
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    cache.confine(package.model_id, Confinement(program, 4 << 30))
    market = Market(cache, package)
    said = {"temperature": 1.0, "seed": 3, "max_tokens": 20}
    expected = outputs(Market(sessions, package).ask("A", **said))
    assert outputs(market.ask("A", **said))["text"] == expected["text"]
    pids = [cache.get(package)._process.pid]
    for pid in pids:
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            pids += map(int, children.read().split())
    with open(f"/proc/{pids[-1]}/limits") as limits:
        assert f"Max address space         {(4 << 30) + sandbox.EXTRA_MEMORY_BYTES} " in limits.read()
    for _ in range(3):
        model = cache.get(package)
        os.kill(model._process.pid, signal.SIGKILL)
        wait_for(lambda: model._wire is None)  # noqa: B023
        if not cache.deaths.withdrawn:
            assert outputs(market.ask("A", **said))["text"] == expected["text"]
    refused = market.ask("A", **said)
    assert (refused.code, refused.retry) == ("model-withdrawn", Retry.OTHER_WORKER)
    cache.close()


def test_a_strangers_graph_is_screened_before_it_generates(tmp_path):
    files = tiny_llm.files()
    made = onnx.load_from_string(files["model.onnx"])
    made.graph.node.append(onnx.helper.make_node("Snpe", ["x"], ["y"], domain="com.microsoft"))
    manifest = tiny_llm.package(tmp_path / "source")
    changed = {**files, "model.onnx": made.SerializeToString()}
    fields = {
        name: getattr(manifest, name)
        for name in ("task", "entry", "inputs", "outputs", "unit", "batch_axis", "options")
    }
    package = models.fetched(tmp_path / "source", models.write(tmp_path / "source", changed, **fields))
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    cache.confine(package.model_id, Confinement(None, 4 << 30))
    with pytest.raises(ModelUnusable, match="Snpe"):
        cache.get(package)
