"""Says who of three answered otherwise than the two others; where no two agree, nobody is convicted.

Pure: two workers that differ accuse each other, and only a third answer tells which of them strayed. Called by
`market.inference.audits`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from market.verification.output_diff import Difference, Verdict

T = TypeVar("T")

# A slight difference can befall an honest worker now and then; a cheat has one often.
STRIKES = 3
STRUCK_SHARE = 0.005
_NO_DIFFERENCE = Difference(Verdict.SAME)


class Outcome(StrEnum):
    """What an audit came to."""

    AGREED = "agreed"
    CONVICTED = "convicted"
    STRIKE = "strike"
    DISPUTED = "disputed"


@dataclass(frozen=True, slots=True)
class Judgement:
    """An outcome, who it is against (the place among the answers), and the difference it rests on."""

    outcome: Outcome
    against: int | None = None
    difference: Difference = _NO_DIFFERENCE


def strikes_convict(strikes: int, agreed: int) -> bool:
    """Tell whether a worker that was struck so often, beside the audits that it passed, cannot be honest."""
    return strikes >= STRIKES and strikes >= STRUCK_SHARE * (strikes + agreed)


def judge(answers: Sequence[T], compare: Callable[[T, T], Difference]) -> Judgement:
    """Judge the answers of two or three workers to one request; with two that differ all that is known is a dispute."""
    first, second, *others = answers
    between = compare(first, second)
    if between.same:
        return Judgement(Outcome.AGREED, difference=between)
    for third in others:
        from_first, from_second = compare(first, third), compare(second, third)
        if from_first.same != from_second.same:
            against, apart = (1, from_second) if from_first.same else (0, from_first)
            # The milder of what it is held against by both: one of them alone could exaggerate.
            slight = Verdict.SLIGHT in (apart.verdict, between.verdict)
            outcome = Outcome.STRIKE if slight else Outcome.CONVICTED
            return Judgement(outcome, against, apart)
    return Judgement(Outcome.DISPUTED, difference=between)
