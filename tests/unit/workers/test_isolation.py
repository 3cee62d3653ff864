"""Whose models run where; and what a model's process may say, held to what it was asked."""

import json
import socket
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.protocol.manifest import FileEntry, Manifest, TensorSpec
from contracts.protocol.tensors import Tensor
from workers import isolation
from workers.commands import findings
from workers.errors import ExecutionFailed, InputsRefused, JobError, ModelUnusable, ModelWithdrawn, SandboxMissing
from workers.models.deaths import Deaths
from workers.models.generation.heard import Heard, read_ready
from workers.models.generation.request import GenerationRequest
from workers.models.isolated.messages import pack_outcomes, pack_requests, read_outcomes, read_requests
from workers.models.pipelines.base import Answer
from workers.models.sandbox import Bubblewrap, Confinement, box
from workers.models.serving import Request
from workers.models.wire import _HEAD, MOST_DATA_BYTES, MOST_SAID_BYTES, Garbled, Wire
from workers.settings import WorkerSettings

OPERATOR, FRIEND, STRANGER = (bytes([i]) * 20 for i in (1, 2, 3))
OURS = frozenset({OPERATOR})
MISSING = Bubblewrap(None, "bubblewrap is not installed")


def place(monkeypatch, found, owner, **said):
    monkeypatch.setattr(isolation, "find_bubblewrap", lambda: found)
    configured = WorkerSettings(trusted_owners="0x" + FRIEND.hex(), **said)
    return isolation.confinement_for(owner, ours=OURS, settings=configured)


@pytest.mark.parametrize("owner", [OPERATOR, FRIEND])
def test_ones_own_and_trusted_owners_models_run_in_the_worker(monkeypatch, owner):
    assert place(monkeypatch, MISSING, owner) is None
    assert place(monkeypatch, Bubblewrap("/usr/bin/bwrap"), owner) is None
    assert place(monkeypatch, MISSING, owner, isolation="always").bubblewrap is None
    assert place(monkeypatch, Bubblewrap("/usr/bin/bwrap"), owner, isolation="always").bubblewrap == "/usr/bin/bwrap"


def test_strangers_models_are_confined_or_refused_unless_told_otherwise(monkeypatch):
    made = place(monkeypatch, Bubblewrap("/usr/bin/bwrap"), STRANGER, run_seconds=3, memory_budget_bytes=1 << 20)
    assert made == Confinement("/usr/bin/bwrap", 1 << 20, load_seconds=120, run_seconds=3)
    for isolation_said in ("auto", "always"):
        with pytest.raises(SandboxMissing) as refused:
            place(monkeypatch, MISSING, STRANGER, isolation=isolation_said)
        assert refused.value.field == "WORKER_ISOLATION"
        assert "apt install bubblewrap" in refused.value.remedy
    assert place(monkeypatch, MISSING, STRANGER, isolation="limits").bubblewrap is None
    assert place(monkeypatch, MISSING, STRANGER, isolation="off") is None


def test_the_doctor_says_which_models_run_where(monkeypatch):
    owners = {"mine": OPERATOR, "theirs": STRANGER}

    def look(found, **said):
        monkeypatch.setattr(isolation, "find_bubblewrap", lambda: found)
        monkeypatch.setattr("workers.models.sandbox.find_bubblewrap", lambda: found)
        return findings.sandbox(WorkerSettings(**said), owners, OURS)

    assert "in processes of their own: theirs; in the worker's own: mine" in look(Bubblewrap("/usr/bin/bwrap"))
    with pytest.raises(SandboxMissing):
        look(MISSING)
    with pytest.raises(findings.Noted, match="no boundary"):
        look(MISSING, isolation="limits")
    with pytest.raises(findings.Noted, match="off"):
        look(Bubblewrap("/usr/bin/bwrap"), isolation="off")


def test_the_box_shows_the_package_and_programs_only(tmp_path):
    words = box(tmp_path, Confinement("/usr/bin/bwrap", 1))
    shown = {words[i + 1] for i, word in enumerate(words) if word == "--ro-bind"}
    assert str(tmp_path) in shown
    assert not {"/", "/home", "/root", "/etc", "/tmp", "/var", "/proc", "/sys"} & shown
    assert {"--unshare-all", "--die-with-parent", "--new-session", "--remount-ro"} <= set(words)
    assert box(tmp_path, Confinement(None, 1)) == []
    assert "--bind" not in words
    words = box(tmp_path, Confinement("/usr/bin/bwrap", 1), also=[tmp_path / "a"], writable=tmp_path / "b")
    assert words[words.index("--bind") + 1] == words[words.index("--bind") + 2] == str(tmp_path / "b")
    assert words.index("--bind") > max(i for i, word in enumerate(words) if word == "--ro-bind"), "else it is hidden"


# --- a model that dies -----------------------------------------------------------------------------------------------


def test_the_third_death_within_ten_minutes_withdraws_a_model():
    now = [0.0]
    deaths = Deaths(lambda: now[0])
    for at in (0, 400, 700, 1_050):
        now[0] = float(at)
        deaths.note(b"m", "died", "it died.")
        deaths.note(b"n", "died", "it died.", counts=False)
        deaths.check(b"m")
    now[0] = 1_100
    deaths.note(b"m", "overdue", "no answer after 10 s.")
    with pytest.raises(ModelWithdrawn, match="no answer after 10 s"):
        deaths.check(b"m")
    deaths.check(b"n")
    assert deaths.withdrawn == {b"m"}


def test_a_withdrawn_model_is_offered_again_after_longer_each_time():
    now = [0.0]
    deaths = Deaths(lambda: now[0])
    rests = []
    for _ in range(10):
        for _ in range(3):
            deaths.note(b"m", "died", "it died.")
        began = now[0]
        while deaths.withdrawn:
            with pytest.raises(ModelWithdrawn, match="more minutes"):
                deaths.check(b"m")
            now[0] += 60.0
        deaths.check(b"m")
        rests.append(now[0] - began)
    assert rests == [600.0 * 2**i for i in range(8)] + [86_400.0] * 2
    now[0] += 86_400.0
    for _ in range(3):
        deaths.note(b"m", "died", "it died.")
    now[0] += 600.0
    assert not deaths.withdrawn, "after a good day it begins anew"


# --- what a process may say ------------------------------------------------------------------------------------------

MANIFEST = Manifest(
    task="tensor",
    entry="m.onnx",
    files={"m.onnx": FileEntry(b"\0" * 32, 1)},
    inputs=(TensorSpec("x", "FP32", (-1, 4)),),
    outputs=(TensorSpec("y", "FP32", (-1, 3)), TensorSpec("s", "BYTES", (-1,))),
)
ANSWER = Answer({"y": np.ones((2, 3), "f4"), "s": np.array([b"a", b"bc"], dtype=object)}, units=7)


def carried(packed):
    """Return a message as the other side reads it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Wire(ours).send(*packed)
        ((said, data),) = Wire(theirs).take()
    return said, data


def test_requests_and_outcomes_come_as_they_were_sent():
    sent = [Request([Tensor.from_numpy("x", np.arange(8, dtype="f4").reshape(2, 4))], {"big": 1 << 80, "text": "ü"})]
    (request,) = read_requests(carried(pack_requests(5, sent))[0][2], carried(pack_requests(5, sent))[1])
    np.testing.assert_array_equal(request.tensors[0].to_numpy(), sent[0].tensors[0].to_numpy())
    assert request.parameters == sent[0].parameters
    refused = InputsRefused("bad\x1b[31m\ntext" + "x" * 1000, field="x")
    said, data = carried(pack_outcomes(5, {0: ANSWER, 2: refused}))
    outcomes = read_outcomes(said, data, 5, MANIFEST, {0, 1, 2})
    assert outcomes[0].units == 7
    np.testing.assert_array_equal(outcomes[0].outputs["y"], ANSWER.outputs["y"])
    assert outcomes[0].outputs["s"].tolist() == [b"a", b"bc"]
    assert isinstance(outcomes[2], InputsRefused)
    assert outcomes[2].detail.startswith("bad [31m text")
    assert len(outcomes[2].detail) == 300
    assert read_outcomes(said, data, 6, MANIFEST, {0, 1, 2}) == {}  # of a batch that is over


Y, S = ["y", "FP32", [2, 3], 24], ["s", "BYTES", [1], 5]
DATA = b"\0" * 24 + struct.pack("<I", 1) + b"a"
GOOD = ["did", 1, [[0, 1, [Y, S]]], []]
LIES = {
    "nothing": None,
    "a number": 7,
    "another word": ["done", 1, [], []],
    "a number that is true": ["did", True, [], []],
    "a position nobody asked": ["did", 1, [[5, 1, [Y, S]]], []],
    "a position twice": ["did", 1, [[0, 1, [Y, S]]], [[0, "execution-failed", "x", None]]],
    "negative units": ["did", 1, [[0, -1, [Y, S]]], []],
    "units beyond measure": ["did", 1, [[0, 1 << 60, [Y, S]]], []],
    "an output missing": ["did", 1, [[0, 1, [Y]]], []],
    "an output twice": ["did", 1, [[0, 1, [Y, Y]]], []],
    "an output of another name": ["did", 1, [[0, 1, [["z", "FP32", [2, 3], 24], S]]], []],
    "another datatype": ["did", 1, [[0, 1, [["y", "INT32", [2, 3], 24], S]]], []],
    "no datatype": ["did", 1, [[0, 1, [["y", "OBJECT", [2, 3], 24], S]]], []],
    "another rank": ["did", 1, [[0, 1, [["y", "FP32", [6], 24], S]]], []],
    "another width": ["did", 1, [[0, 1, [["y", "FP32", [3, 2], 24], S]]], []],
    "a size below nought": ["did", 1, [[0, 1, [["y", "FP32", [-2, 3], 24], S]]], []],
    "more elements than bytes": ["did", 1, [[0, 1, [["y", "FP32", [1 << 40, 3], 24], S]]], []],
    "bytes beyond the end": ["did", 1, [[0, 1, [["y", "FP32", [2, 3], 1 << 40], S]]], []],
    "bytes left over": ["did", 1, [], [[0, "execution-failed", "x", None]]],
    "a failure of nobody's": ["did", 1, [[0, 1, [Y, S]]], [[1, "job-refused", "x", None]]],
    "a detail that is no text": ["did", 1, [[0, 1, [Y, S]]], [[1, "execution-failed", 7, None]]],
    "a map": {"did": 1},
}


def test_an_honest_answer_passes():
    assert read_outcomes(GOOD, memoryview(DATA), 1, MANIFEST, {0, 1})[0].outputs["s"].tolist() == [b"a"]


@pytest.mark.parametrize("said", LIES.values(), ids=LIES.keys())
def test_a_lie_is_garbled(said):
    with pytest.raises(Garbled):
        read_outcomes(said, memoryview(DATA), 1, MANIFEST, {0, 1})


@pytest.mark.parametrize(
    "sent",
    [
        _HEAD.pack(MOST_SAID_BYTES + 1, 0),
        _HEAD.pack(1, MOST_DATA_BYTES + 1),
        _HEAD.pack(0xFFFFFFFF, (1 << 64) - 1),
        _HEAD.pack(1, 0) + b"\xc1",
        _HEAD.pack(0, 0),
        _HEAD.pack(3, 0) + b"\xa2\xff\xff",  # no UTF-8
        _HEAD.pack(5, 0) + b"\xdd\xff\xff\xff\xff",  # four thousand million elements
        _HEAD.pack(2_000, 0) + b"\x91" * 2_000,  # lists within lists
    ],
)
def test_bytes_that_are_no_message_are_garbled(sent):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(sent)
        with pytest.raises(Garbled):
            Wire(theirs).take()


def test_a_message_in_pieces_is_whole_when_it_is():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender, receiver = Wire(ours), Wire(theirs)
        sender.send([1], [b"ab"])
        whole = theirs.recv(1_000)
        for piece in (whole[:3], whole[3:13], whole[13:] + whole[:5], whole[5:]):
            ours.sendall(piece)
        heard = []
        while len(heard) < 2:
            heard += receiver.take()
    assert [(said, bytes(data)) for said, data in heard] == [([1], b"ab")] * 2


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text()
    | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(JSON | st.tuples(st.just("did"), st.just(1), JSON, JSON).map(list), st.binary(max_size=60))
def test_whatever_a_process_says_is_an_outcome_or_garbled(said, data):
    try:
        outcomes = read_outcomes(said, memoryview(data), 1, MANIFEST, {0, 1})
    except Garbled:
        return
    assert set(outcomes) <= {0, 1}
    assert all(isinstance(one, Answer | JobError) for one in outcomes.values())


# --- and of a generation ---------------------------------------------------------------------------------------------


def heard(**changes):
    asked = {"prompt": "a", "messages": None, "max_tokens": 4, "temperature": 0.0, "top_p": 1.0, "top_k": 0}
    asked |= {"seed": None, "stop": (), "logprobs": False}
    return Heard(None, GenerationRequest(**(asked | changes)), context=100)


def test_a_generation_ends_as_it_was_asked():
    one = heard()
    one.delta("abc", 3)
    assert one.end("stop", 5, 4, None).completion_tokens == 4
    assert heard(logprobs=True).end("length", 5, 2, [-0.5, -1.0]).logprobs == [-0.5, -1.0]


@pytest.mark.parametrize(
    "tell",
    [
        lambda one: one.delta("a", 5),
        lambda one: one.delta("a", -1),
        lambda one: one.delta("a" * 10_000, 1),
        lambda one: [one.delta("a" * 1_000, 0) for _ in range(6)],
        lambda one: one.end("bored", 5, 4, None),
        lambda one: one.end("stop", 101, 4, None),
        lambda one: one.end("stop", 5, 5, None),
        lambda one: one.end("stop", 5, -1, None),
        lambda one: (one.delta("abc", 3), one.end("stop", 5, 2, None)),
        lambda one: one.end("stop", 5, 1, [-0.5]),
        lambda one: one.end("stop", 5, 1, "x"),
    ],
)
def test_more_than_was_asked_for_is_garbled(tell):
    with pytest.raises(Garbled):
        tell(heard())


@pytest.mark.parametrize("numbers", [None, [], [1], ["x"], [-0.5, -0.5]])
def test_log_probabilities_are_one_a_token(numbers):
    with pytest.raises(Garbled):
        heard(logprobs=True).end("stop", 5, 1, numbers)


def test_a_process_is_ready_or_says_why_not():
    facts = {"provider": "cpu", "fell_back": "", "version": "1", "advance": "in turns", "why": "so told."}
    assert read_ready(["ready", facts]) == facts
    with pytest.raises(ModelUnusable, match="no good"):
        read_ready(["unusable", "no good"])
    for lie in (None, [], ["ready"], ["ready", {}], ["ready", {**facts, "provider": 7}], json.dumps(facts)):
        with pytest.raises(Garbled):
            read_ready(lie)


def test_an_error_of_the_process_keeps_its_kind():
    said, data = carried(pack_outcomes(1, {0: ExecutionFailed("onnxruntime refused.", field="x")}))
    (error,) = read_outcomes(said, data, 1, MANIFEST, {0}).values()
    assert (type(error), error.field) == (ExecutionFailed, "x")
