"""Real models by the real runtime: every kind of cheat is told from every kind of honest worker, and none of those."""

import itertools

import numpy as np
import pytest

from contracts.protocol.tensors import Tensor
from market.verification.audit_verdict import Outcome, judge
from market.verification.output_diff import DEFAULT_TOLERANCE, compare, size_of
from tests.support import cheats

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

COUNT = 100


@pytest.fixture(scope="module", params=cheats.MODELS, ids=lambda made: made.__name__)
def served(request):
    return Served(request.param())


class Served:
    """A model, inputs, and what honest workers of every kind answer to each."""

    def __init__(self, kind) -> None:
        self.model, self.fp16_limit, self.fp16_share = kind.model, kind.fp16_limit, kind.fp16_share
        self.inputs = [kind.inputs(seed) for seed in range(COUNT)]
        plain = cheats.opened(self.model)
        self.outputs = plain.get_outputs()
        self.honest = {}
        for level, threads in cheats.HONEST:
            session = cheats.opened(self.model, level, threads)
            self.honest[str(level), threads] = [cheats.answer(session, one) for one in self.inputs]
        for rows in cheats.BATCHES:
            self.honest["rows", rows] = list(self.joined(plain, rows))

    def joined(self, session, rows):
        """Answer several clients at once, as a worker does that joins requests."""
        for start in range(0, COUNT, rows):
            part = self.inputs[start : start + rows]
            together = {name: np.concatenate([one[name] for one in part]) for name in part[0]}
            arrays = session.run(None, together)
            for i in range(len(part)):
                yield cheats.of_arrays(self.outputs, [array[i : i + 1] for array in arrays])

    def answers(self, model):
        session = cheats.opened(model)
        return [cheats.answer(session, one) for one in self.inputs]

    def convicted(self, answers, limit=DEFAULT_TOLERANCE, outcomes=(Outcome.CONVICTED,)) -> float:
        """Return in which share of audits a worker with these answers is convicted, by auditors of changing kinds."""
        kinds = itertools.cycle(itertools.permutations(self.honest.values(), 2))
        count = 0
        for i, (answer, (second, third)) in enumerate(zip(answers, kinds, strict=False)):
            usual = {one.name: size_of(one) for one in second[i][0]}
            found = judge([answer, second[i], third[i]], lambda a, b, u=usual: compare(a, b, limit, u))
            assert found.against in (0, None)
            count += found.outcome in outcomes
        return count / len(answers)


def test_no_honest_worker_of_any_kind_differs_from_another(served):
    for one, other in itertools.combinations(served.honest.values(), 2):
        for first, second in zip(one, other, strict=True):
            usual = {tensor.name: size_of(tensor) for tensor in second[0]}
            found = compare(first, second, served.fp16_limit, usual)
            assert found.same, found


@pytest.mark.parametrize("cheat", [cheats.int8, cheats.other_weights], ids=lambda cheat: cheat.__name__)
def test_a_cheaper_model_is_convicted(served, cheat):
    assert served.convicted(served.answers(cheat(served.model))) >= 0.99


STRUCK = (Outcome.CONVICTED, Outcome.STRIKE)


def test_a_copy_with_shorter_weights_is_struck_each_time_and_so_convicted_by_the_third(served):
    assert served.convicted(served.answers(cheats.bf16(served.model)), outcomes=STRUCK) >= 0.99


def test_a_copy_in_half_precision_is_struck_where_the_manifest_says_so(served):
    answers = served.answers(cheats.fp16(served.model))
    assert served.convicted(answers, served.fp16_limit, STRUCK) >= served.fp16_share


def test_answers_without_a_model_are_convicted(served):
    honest = served.answers(served.model)
    random = np.random.default_rng(3)

    def changed(change):
        return [([Tensor.from_numpy(t.name, change(t.to_numpy())) for t in tensors], said) for tensors, said in honest]

    made_up = changed(lambda array: random.permutation(array.ravel()).reshape(array.shape))
    cached = honest[-1:] + honest[:-1]
    shorter = changed(lambda array: np.ascontiguousarray(array[..., : array.shape[-1] // 2]))
    half_empty = changed(lambda array: np.where(np.arange(array.shape[-1]) < array.shape[-1] // 2, array, 0))
    nothing = changed(np.zeros_like)
    not_numbers = changed(lambda array: np.full_like(array, np.nan))
    for answers in (made_up, cached, shorter, half_empty, nothing, not_numbers):
        assert served.convicted(answers) >= 0.99
