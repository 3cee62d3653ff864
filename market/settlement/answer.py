"""Answers challenges of inclusion: shows the batch that holds a receipt before the time to do so is over.

Who holds a countersigned receipt may claim that no batch holds it; a gateway that is silent loses part of its reserve.
A receipt that still waits is settled first. Safe to stop at any line and to run twice. Called by `market.jobs`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from market.errors import OperationError
from market.settlement.ports import Challenges, DisputeChain, OpenChallenge, Proofs

LOOK_SECONDS = 60.0

log = structlog.get_logger(__name__)


class AnswerRefused(OperationError):
    """The dispute manager refuses the proof of a receipt that this gateway settled."""

    code = "answer-refused"
    default_remedy = "Look at the challenge on chain: somebody may have answered it already, or its time is over."


class Answerer:
    """One gateway's answers."""

    def __init__(
        self,
        *,
        challenges: Challenges,
        proofs: Proofs,
        chain: DisputeChain,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._challenges = challenges
        self._proofs = proofs
        self._chain = chain
        self._clock = clock
        self._unknown: dict[bytes, float] = {}

    def step(self) -> bool:
        """Answer what is challenged and settled; True if a challenged receipt waits to be settled.

        Raises:
            ChainUnreachable: try again later; nothing is lost.
            AnswerRefused: the contract refuses one answer; the others were given.
        """
        now = self._clock()
        wanted = [
            one
            for one in self._challenges.challenges()
            if one.answer_by >= now and now - self._unknown.get(one.digest, float("-inf")) >= LOOK_SECONDS
        ]
        if not wanted:
            return False
        waits, refused = False, None
        known = self._proofs.of_digests([one.digest for one in wanted])
        for one in wanted:
            if one.digest not in known:
                self._note_unknown(one, now)
                continue
            proof = known[one.digest]
            if proof is None:
                waits = True
                continue
            try:
                if self._chain.answer(one.digest, proof):
                    log.info("challenge-answered", receipt=one.digest.hex(), epoch=proof.epoch)
            except AnswerRefused as error:
                refused = error
        if refused is not None:
            raise refused
        return waits

    def _note_unknown(self, one: OpenChallenge, now: float) -> None:
        """The ledger has no such receipt: it is looked for again in a while, as reading it all is dear."""
        self._unknown[one.digest] = now
        log.error("challenge-of-unknown-receipt", receipt=one.digest.hex(), answer_by=one.answer_by)
