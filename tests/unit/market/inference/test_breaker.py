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
)

WORKER, MODEL, OTHER = b"w", b"m", b"o"


def test_it_opens_after_faults_in_a_row_only():
    now = [0.0]
    breakers = Breakers(lambda: now[0])
    for _ in range(THRESHOLD - 1):
        assert not breakers.ended(WORKER, MODEL, fault=True)
    breakers.ended(WORKER, MODEL, fault=False)
    for _ in range(THRESHOLD - 1):
        assert not breakers.ended(WORKER, MODEL, fault=True)
    assert breakers.lets_through(WORKER, MODEL)
    assert breakers.ended(WORKER, MODEL, fault=True)
    assert not breakers.lets_through(WORKER, MODEL)
    assert breakers.lets_through(WORKER, OTHER)
    assert breakers.lets_through(OTHER, MODEL)


def test_an_answer_that_its_signature_does_not_cover_opens_it_at_once():
    breakers = Breakers(lambda: 0.0)
    assert breakers.ended(WORKER, MODEL, fault=True, grave=True)
    assert not breakers.lets_through(WORKER, MODEL)


def test_half_open_lets_one_request_through_at_a_time():
    now = [0.0]
    breakers = Breakers(lambda: now[0])
    breakers.ended(WORKER, MODEL, fault=True, grave=True)
    now[0] = FIRST_PAUSE_SECONDS
    assert breakers.lets_through(WORKER, MODEL)
    breakers.begun(WORKER, MODEL)
    assert not breakers.lets_through(WORKER, MODEL)
    breakers.ended(WORKER, MODEL, fault=None)
    assert breakers.lets_through(WORKER, MODEL), "a probe whose client left says nothing"
    breakers.begun(WORKER, MODEL)
    breakers.ended(WORKER, MODEL, fault=False)
    assert breakers.lets_through(WORKER, MODEL)


def test_each_failed_probe_doubles_the_pause_up_to_the_longest():
    now, circuit, pauses = 0.0, Circuit(), []
    circuit = failed(circuit, now, grave=True)
    for _ in range(8):
        pauses.append(circuit.pause)
        now = circuit.open_until
        circuit = failed(begun(circuit), now)
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


class ManyRequests(RuleBasedStateMachine):
    """Whatever comes in whatever order, a circuit never stays shut for ever, and a success always closes it."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.circuit = Circuit()
        self.under_way = 0

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds):
        self.now += seconds

    @precondition(lambda self: lets_through(self.circuit, self.now))
    @rule()
    def send(self):
        assert not (self.circuit.pause and self.circuit.probing)
        self.circuit = begun(self.circuit)
        self.under_way += 1

    @precondition(lambda self: self.under_way)
    @rule(grave=st.booleans())
    def fail(self, grave):
        self.under_way -= 1
        self.circuit = failed(self.circuit, self.now, grave=grave)

    @precondition(lambda self: self.under_way)
    @rule()
    def succeed(self):
        self.under_way -= 1
        self.circuit = Circuit()

    @invariant()
    def it_opens_again(self):
        assert self.circuit.open_until <= self.now + LONGEST_PAUSE_SECONDS
        if self.circuit.pause and not self.circuit.probing:
            assert lets_through(self.circuit, self.circuit.open_until)


TestManyRequests = ManyRequests.TestCase
