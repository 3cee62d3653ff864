from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from market.inference.breaker import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    THRESHOLD,
    Breakers,
    Circuit,
    begun,
    failed,
    lets_through,
    succeeded,
)

WORKER, MODEL, OTHER = b"w", b"m", b"o"


def ended(breakers, *, began=None, start=1, **how):
    """Tell how a request ended that began now."""
    began = breakers._clock() if began is None else began
    return breakers.ended(WORKER, MODEL, began=began, start=start, **how)


def test_it_opens_after_faults_in_a_row_only():
    now = [0.0]
    breakers = Breakers(lambda: now[0])
    for _ in range(THRESHOLD - 1):
        assert not ended(breakers, fault=True)
    ended(breakers, fault=False)
    for _ in range(THRESHOLD - 1):
        assert not ended(breakers, fault=True)
    assert breakers.lets_through(WORKER, MODEL, 1)
    assert ended(breakers, fault=True)
    assert not breakers.lets_through(WORKER, MODEL, 1)
    assert breakers.lets_through(WORKER, OTHER, 1)
    assert breakers.lets_through(OTHER, MODEL, 1)


def test_an_answer_that_its_signature_does_not_cover_opens_it_at_once():
    breakers = Breakers(lambda: 0.0)
    assert ended(breakers, fault=True, grave=True)
    assert not breakers.lets_through(WORKER, MODEL, 1)


def test_half_open_lets_one_request_through_at_a_time():
    now = [0.0]
    breakers = Breakers(lambda: now[0])
    ended(breakers, fault=True, grave=True)
    now[0] = FIRST_PAUSE_SECONDS
    assert breakers.lets_through(WORKER, MODEL, 1)
    breakers.begun(WORKER, MODEL, 1)
    assert not breakers.lets_through(WORKER, MODEL, 1)
    ended(breakers, fault=None)
    assert breakers.lets_through(WORKER, MODEL, 1), "a probe whose client left says nothing"
    breakers.begun(WORKER, MODEL, 1)
    ended(breakers, fault=False)
    assert breakers.lets_through(WORKER, MODEL, 1)


def test_each_failed_probe_doubles_the_pause_up_to_the_longest():
    now, circuit, pauses = 0.0, Circuit(), []
    circuit = failed(circuit, now, began=now, start=1, grave=True)
    for _ in range(8):
        pauses.append(circuit.pause)
        now = circuit.open_until
        circuit = failed(begun(circuit, now, 1), now, began=now, start=1)
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_a_start_cuts_one_pause_short_in_a_minute_and_none_of_a_liars():
    now = [0.0]
    breakers = Breakers(lambda: now[0])
    for _ in range(THRESHOLD):
        ended(breakers, fault=True)
    assert not breakers.lets_through(WORKER, MODEL, 1)
    assert breakers.lets_through(WORKER, MODEL, 2)
    breakers.begun(WORKER, MODEL, 2)
    assert not breakers.lets_through(WORKER, MODEL, 3), "one probe at a time"
    assert ended(breakers, start=2, fault=True)
    assert not breakers.lets_through(WORKER, MODEL, 3), "one start a minute"
    now[0] = LONGEST_PAUSE_SECONDS
    began = breakers.begun(WORKER, MODEL, 3)
    assert ended(breakers, began=began, start=3, fault=True), "its pause went on doubling"
    assert not breakers.lets_through(WORKER, MODEL, 3)
    assert breakers.lets_through(WORKER, MODEL, 4)
    began = breakers.begun(WORKER, MODEL, 4)
    ended(breakers, began=began, start=4, fault=True, grave=True)
    now[0] += LONGEST_PAUSE_SECONDS / 2
    assert breakers.lets_through(WORKER, MODEL, 5), "the pause is over"
    ended(breakers, began=breakers.begun(WORKER, MODEL, 5), start=5, fault=True)
    now[0] += LONGEST_PAUSE_SECONDS / 10
    assert not breakers.lets_through(WORKER, MODEL, 6)


def test_what_began_before_the_probe_says_nothing_of_it():
    now = [0.0]
    breakers = Breakers(lambda: now[0])
    for _ in range(THRESHOLD):
        ended(breakers, fault=True)
    now[0] = 0.5
    probe = breakers.begun(WORKER, MODEL, 2)
    now[0] = 0.6
    assert not ended(breakers, began=0.0, fault=True)
    assert not ended(breakers, began=0.0, fault=None)
    assert not breakers.lets_through(WORKER, MODEL, 2), "the probe is under way"
    ended(breakers, began=probe, start=2, fault=False)
    assert breakers.lets_through(WORKER, MODEL, 2)


def test_only_a_probe_closes_a_liars_circuit():
    now = [0.0]
    breakers = Breakers(lambda: now[0])
    now[0] = 1.0
    ended(breakers, fault=True, grave=True)
    ended(breakers, began=0.0, fault=False)
    assert not breakers.lets_through(WORKER, MODEL, 2)
    now[0] += FIRST_PAUSE_SECONDS
    ended(breakers, began=breakers.begun(WORKER, MODEL, 2), start=2, fault=False)
    assert breakers.lets_through(WORKER, MODEL, 2)


class ManyRequests(RuleBasedStateMachine):
    """Whatever comes in whatever order, a circuit never stays shut for ever, and a probe's success always closes it."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.circuit = Circuit()
        self.under_way = []
        self.start = 1
        self.early = []

    @rule(seconds=st.floats(0.001, 100))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def start_anew(self):
        self.start += 1

    @precondition(lambda self: lets_through(self.circuit, self.now, self.start))
    @rule()
    def send(self):
        assert not (self.circuit.pause and self.circuit.probing)
        if self.circuit.pause and self.now < self.circuit.open_until:
            assert not self.circuit.lied
            self.early.append(self.now)
        self.circuit = begun(self.circuit, self.now, self.start)
        self.under_way.append((self.now, self.start))
        self.now += 0.001

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0), grave=st.booleans())
    def fail(self, which, grave):
        began, start = self.under_way.pop(which % len(self.under_way))
        self.circuit = failed(self.circuit, self.now, began=began, start=start, grave=grave)
        self.now += 0.001

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0))
    def succeed(self, which):
        began, _ = self.under_way.pop(which % len(self.under_way))
        probe = self.circuit.probing and began == self.circuit.since
        self.circuit = succeeded(self.circuit, began=began)
        if self.circuit == Circuit():
            self.early.clear()  # it has answered: its count begins anew
        else:
            assert self.circuit.lied
            assert not probe

    @invariant()
    def it_opens_again(self):
        assert self.circuit.open_until <= self.now + LONGEST_PAUSE_SECONDS
        if self.circuit.pause and not self.circuit.probing:
            assert lets_through(self.circuit, self.circuit.open_until, 0)

    @invariant()
    def starts_give_one_probe_a_minute(self):
        assert all(later - sooner > LONGEST_PAUSE_SECONDS - 1e-6 for sooner, later in pairwise(self.early))


TestManyRequests = ManyRequests.TestCase
