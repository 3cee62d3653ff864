"""The pure parts of audits: who is chosen, what differs, who strayed."""

import hmac
import secrets
from dataclasses import replace
from hashlib import sha256
from math import inf, sqrt

import numpy as np
import pytest

from contracts.protocol.errors import ManifestError
from contracts.protocol.manifest import Manifest
from contracts.protocol.tensors import BFLOAT16, Tensor
from market.verification.audit_choice import AuditShares, Choice, commitment, is_chosen, threshold
from market.verification.audit_verdict import Judgement, Outcome, judge, strikes_convict
from market.verification.output_diff import (
    ACCELERATOR_TOLERANCE,
    DEFAULT_TOLERANCE,
    Difference,
    Verdict,
    compare,
    relative_distance,
    size_of,
    tolerance_between,
    tolerance_of,
)
from tests.support.money import manifest

SHARES = AuditShares(usual=0.02, new=0.2, new_requests=200)


# --- choice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5])
def test_as_many_are_chosen_as_the_share_says(share):
    secret, count = secrets.token_bytes(32), 20_000
    chosen = sum(is_chosen(secret, sha256(b"%d" % i).digest(), threshold(share)) for i in range(count))
    assert abs(chosen - share * count) < 6 * sqrt(count * share * (1 - share))


def test_all_or_none_can_be_chosen():
    ids = [secrets.token_bytes(32) for _ in range(200)]
    assert all(is_chosen(b"s" * 32, one, threshold(1.0)) for one in ids)
    assert not any(is_chosen(b"s" * 32, one, threshold(0.0)) for one in ids)


def test_another_secret_chooses_others_and_the_same_one_the_same():
    ids = [sha256(b"%d" % i).digest() for i in range(5_000)]
    by = [
        {one for one in ids if is_chosen(secret, one, threshold(0.2))} for secret in (b"a" * 32, b"b" * 32, b"a" * 32)
    ]
    assert by[0] == by[2]
    # Of two fifths of a fifth each: as many in common as chance brings.
    assert len(by[0] & by[1]) < 0.1 * len(ids)
    assert commitment(b"a" * 32) != commitment(b"b" * 32)


@pytest.mark.parametrize("secret", [b"", b"s", b"s" * 32, bytes(range(64))])
def test_the_choice_is_by_the_hmac_of_the_standard_library(secret):
    choice = Choice(secret)
    for one in (secrets.token_bytes(32) for _ in range(50)):
        expected = hmac.digest(secret, one, "sha256")
        assert not choice.falls_on(one, expected)
        assert choice.falls_on(one, expected + b"\0")


def test_a_new_worker_is_looked_at_ten_times_as_often():
    assert [SHARES.share(count) for count in (0, 199, 200, 10**6)] == [0.2, 0.2, 0.02, 0.02]


# --- comparison ----------------------------------------------------------------------------------------------------


def answer(*tensors, **parameters):
    return [Tensor.from_numpy(f"t{i}", np.asarray(one)) for i, one in enumerate(tensors)], parameters


def far(one, other, limit=DEFAULT_TOLERANCE) -> Difference:
    return compare(one, other, limit)


X = np.random.default_rng(0).normal(size=(4, 64)).astype("f4")


@pytest.mark.parametrize(("noise", "same"), [(0.0, True), (3.1e-5, True), (2.6e-3, False), (0.1, False)])
def test_floats_are_compared_by_their_relative_distance(noise, same):
    step = np.random.default_rng(1).normal(size=X.shape)
    moved = (X + noise * step * np.linalg.norm(X) / np.linalg.norm(step)).astype("f4")
    found = far(answer(X), answer(moved))
    assert found.same is same
    assert found.error == pytest.approx(noise, rel=0.05, abs=1e-7)


@pytest.mark.parametrize(
    ("limit", "apart", "verdict"),
    [
        (1e-3, 0.9e-3, Verdict.SAME),
        (1e-3, 2e-3, Verdict.SLIGHT),
        (1e-3, 2e-2, Verdict.FAR),
        (0.25, 0.3, Verdict.SLIGHT),
        (0.25, 0.6, Verdict.FAR),
        (0.9, 0.8, Verdict.SAME),
        (0.9, 1.0, Verdict.FAR),
    ],
)
def test_not_far_beyond_the_tolerance_is_slight(limit, apart, verdict):
    assert far(answer(np.ones((2, 2), "f4")), answer(np.full((2, 2), 1 - apart, "f4")), limit).verdict is verdict


def test_the_distance_is_symmetric_and_scale_free():
    other = (X * 1.01).astype("f4")
    assert far(answer(X), answer(other)).error == pytest.approx(far(answer(other), answer(X)).error)
    for scale in (1e-30, 1e30):
        assert relative_distance(X.astype("f8") * scale, other.astype("f8") * scale) == pytest.approx(0.0099, rel=0.01)
    assert relative_distance(np.full(3, 1e308), np.full(3, -1e308)) == pytest.approx(2.0)
    assert relative_distance(np.zeros(3), np.zeros(3)) == 0.0
    assert relative_distance(np.zeros(3), np.full(3, 1e-300)) == 1.0
    assert relative_distance(np.zeros(0), np.zeros(0)) == 0.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (X, X[:2]),
        (X, X.astype("f8")),
        (X, np.where(np.arange(64) == 3, np.nan, X).astype("f4")),
        (np.array([np.inf], "f4"), np.array([-np.inf], "f4")),
        (np.array([np.inf, 1], "f4"), np.array([1, np.inf], "f4")),
        (X, -X),
        (X, np.zeros_like(X)),
    ],
)
def test_shape_type_and_what_is_not_finite_count(one, other):
    assert far(answer(one), answer(other)).verdict is Verdict.FAR
    assert far(answer(other), answer(one)).verdict is Verdict.FAR


def test_the_same_nan_is_no_difference():
    one = np.array([np.nan, np.inf, 1.0], "f4")
    assert far(answer(one), answer(one.copy())).same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([True]), np.array([False])),
        (np.array([b"cat"], object), np.array([b"dog"], object)),
    ],
)
def test_all_else_is_compared_exactly(one, other):
    assert far(answer(one), answer(one.copy())).same
    assert far(answer(one), answer(other)).verdict is Verdict.SLIGHT
    assert far(answer(X, one), answer(X * 2, other)).verdict is Verdict.FAR, "the graver difference counts"


def test_missing_outputs_and_other_parameters_count():
    assert far(answer(X), answer(X, X)).verdict is Verdict.FAR
    assert far(answer(X, a=1), answer(X, a=2)).verdict is Verdict.SLIGHT


def test_half_precision_has_more_room():
    # One unit in the last place of some values.
    half = X.astype("f2")
    nudged = half.copy()
    nudged[0] = np.nextafter(nudged[0], np.float16(9))
    assert far(answer(half), answer(nudged)).same
    bits = (X.view("u4") >> 16).astype("u2").view(BFLOAT16)
    other = ((X * 1.2).view("u4") >> 16).astype("u2").view(BFLOAT16)
    assert far(answer(bits), answer(bits)).same
    assert far(answer(bits), answer(other)).error == pytest.approx(1 / 6, rel=0.05)


def softmax(logits):
    grown = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (grown / grown.sum(axis=-1, keepdims=True)).astype("f4")


@pytest.mark.parametrize("sureness", [0.5, 1.0, 10.0])
def test_probabilities_are_compared_by_what_was_before_the_softmax(sureness):
    random = np.random.default_rng(2)
    logits = sureness * random.normal(size=(3, 50))
    step = random.normal(size=logits.shape)
    step *= np.linalg.norm(logits) / np.linalg.norm(step)
    for noise, same in ((3e-5, True), (3e-3, False)):
        assert far(answer(softmax(logits)), answer(softmax(logits + noise * step))).same is same
    # A single score is no row of probabilities, nor is what adds up to one by negative numbers.
    assert far(answer(np.ones((2, 1), "f4")), answer(np.ones((2, 1), "f4"))).error == 0.0
    assert not far(answer(np.array([[1.5, -0.5]], "f4")), answer(np.array([[1.6, -0.6]], "f4"))).same
    assert not far(answer(np.array([[1.0, 0.0]], "f4")), answer(np.array([[0.99, 0.01]], "f4"))).same


def test_rows_in_which_all_is_alike_likely_are_not_compared_by_their_noise():
    flat = np.full((2, 4), 0.25, "f4")
    noisy = (flat * (1 + 1e-6 * np.random.default_rng(0).normal(size=flat.shape))).astype("f4")
    assert far(answer(flat), answer(noisy)).same
    assert not far(answer(flat), answer(softmax(np.array([[0.0, 0.1, 0, 0]] * 2)))).same


def test_what_is_next_to_nothing_beside_the_usual_is_no_difference():
    nothing, noise = np.zeros((1, 4), "f4"), np.array([[0, 1e-6, 0, 0]], "f4")
    assert not far(answer(nothing), answer(noise)).same
    usual = {"t0": size_of(Tensor.from_numpy("t0", np.ones((1, 4), "f4")))}
    assert usual == {"t0": 1.0}
    assert compare(answer(nothing), answer(noise), DEFAULT_TOLERANCE, usual).same
    assert not compare(answer(nothing), answer(noise * 1e3), DEFAULT_TOLERANCE, usual).same
    assert size_of(Tensor.from_numpy("x", np.array([np.inf, np.nan, 0], "f4"))) == 0.0
    assert size_of(Tensor.from_numpy("x", np.arange(3))) == 0.0
    assert size_of(Tensor.from_numpy("x", np.full(2, 1e300))) == pytest.approx(1e300)


@pytest.mark.parametrize(
    ("strikes", "agreed", "convict"),
    [(2, 0, False), (3, 0, True), (3, 597, True), (3, 598, False), (50, 10_000, False)],
)
def test_strikes_convict_who_is_struck_often(strikes, agreed, convict):
    assert strikes_convict(strikes, agreed) is convict


def model(task="tensor", **options) -> Manifest:
    return replace(manifest(), task=task, options=options)


def test_a_model_says_how_far_its_answers_lie_apart_or_cannot_be_audited():
    assert tolerance_of(model(), DEFAULT_TOLERANCE) == DEFAULT_TOLERANCE
    assert tolerance_of(model(audit_tolerance=0.25), DEFAULT_TOLERANCE) == 0.25
    assert tolerance_of(model(audit_tolerance=0), DEFAULT_TOLERANCE) is None
    assert tolerance_of(model("text-generation"), DEFAULT_TOLERANCE) is None
    assert tolerance_of(model(variants=["half.onnx"]), DEFAULT_TOLERANCE) is None
    assert tolerance_of(model(variants=["half.onnx"], audit_tolerance=0.02), DEFAULT_TOLERANCE) == 0.02


def test_accelerators_have_more_room_unless_the_model_says():
    assert tolerance_between(model(), 1e-3, ("cpu", "cpu")) == 1e-3
    assert tolerance_between(model(), 1e-3, ("cpu", "cuda")) == ACCELERATOR_TOLERANCE
    assert tolerance_between(model(audit_tolerance=1e-4), 1e-4, ("cuda", "cuda")) == 1e-4


@pytest.mark.parametrize("said", [-0.1, 1.1, "1e-3", True, None])
def test_a_manifest_says_it_by_a_number(said):
    with pytest.raises(ManifestError) as error:
        Manifest.parse(model(audit_tolerance=said).to_bytes())
    assert error.value.field == "options.audit_tolerance"
    Manifest.parse(model(audit_tolerance=0.25).to_bytes())


# --- verdict -------------------------------------------------------------------------------------------------------

_FAR, _SLIGHT = Difference(Verdict.FAR, 0.5), Difference(Verdict.SLIGHT, inf)


def unlike(one: str, other: str) -> Difference:
    """Letters are alike whose case is; digits differ in exact values only."""
    if one == other:
        return Difference(Verdict.SAME)
    return _SLIGHT if one.isdigit() and other.isdigit() else _FAR


@pytest.mark.parametrize(
    ("answers", "outcome", "against"),
    [
        ("aa", Outcome.AGREED, None),
        ("ab", Outcome.DISPUTED, None),
        ("abb", Outcome.CONVICTED, 0),
        ("aba", Outcome.CONVICTED, 1),
        ("abc", Outcome.DISPUTED, None),
        ("122", Outcome.STRIKE, 0),
        ("121", Outcome.STRIKE, 1),
        ("1aa", Outcome.CONVICTED, 0),
    ],
)
def test_two_that_agree_outweigh_one_and_without_them_nobody_is_convicted(answers, outcome, against):
    found = judge(answers, unlike)
    assert (found.outcome, found.against) == (outcome, against)


def test_a_third_that_agrees_with_both_convicts_nobody():
    def near(one: float, other: float) -> Difference:
        return Difference(Verdict.SAME if abs(one - other) <= 1 else Verdict.FAR, abs(one - other))

    assert judge([0.0, 2.0, 1.0], near) == Judgement(Outcome.DISPUTED, None, Difference(Verdict.FAR, 2.0))
