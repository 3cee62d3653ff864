"""The link's wire: who may say what, and that nothing is lost, repeated or altered on the way."""

import secrets
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.protocol.hashing import sha256
from contracts.protocol.link import (
    LINK_VERSION,
    MAX_SESSION_SECONDS,
    Challenge,
    Ephemeral,
    Hello,
    Welcome,
    check_hello,
    check_welcome,
    decode_challenge,
    derive_keys,
    encode_challenge,
    make_hello,
    make_welcome,
    new_nonce,
)
from contracts.protocol.link_contents import ForwardedPack, ForwardedResults
from contracts.protocol.link_frames import (
    CHUNK_BYTES,
    MAX_MESSAGE_BYTES,
    Frame,
    Inbox,
    Kind,
    LinkRefused,
    Outbox,
    Seal,
    decode_frame,
    encode_frame,
)
from contracts.protocol.messages import Pack, Result, blob_key, decode_pack, decode_results, encode_pack, encode_results
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Domain, WorkerSession

DOMAIN = Domain(31_337, b"\xee" * 20)
GATEWAY, OTHER_GATEWAY, WORKER, STRANGER = (PrivateKey(sha256(name)) for name in (b"g", b"h", b"w", b"x"))
NOW = 1_700_000_000.0


class Greeting:
    """One handshake, step by step."""

    def __init__(self, *, gateway=GATEWAY, expiry=int(NOW) + 60, signer=WORKER, session=None, domain=DOMAIN):
        self.gateway, self.domain = gateway, domain
        self.gateway_ephemeral, self.node_ephemeral = Ephemeral(), Ephemeral()
        self.challenge = encode_challenge(
            Challenge(
                LINK_VERSION,
                gateway.address,
                domain.chain_id,
                domain.escrow,
                new_nonce(),
                self.gateway_ephemeral.public,
            )
        )
        self.session = session or PrivateKey.generate()
        said = WorkerSession(WORKER.address, self.session.address, expiry)
        self.fields = Hello(
            WORKER.address,
            self.session.address,
            expiry,
            signer.sign_digest(said.digest(domain)),
            new_nonce(),
            self.node_ephemeral.public,
            b"",
            0,
            2,
        )
        self.hello = make_hello(self.fields, self.challenge, gateway.address, self.session, domain)

    def checked(self, *, challenge=None, gateway=None, now=NOW):
        return check_hello(self.hello, challenge or self.challenge, (gateway or self.gateway).address, self.domain, now)


def test_both_sides_derive_the_same_keys():
    greeting = Greeting()
    hello, core = greeting.checked()
    welcome = Welcome(new_nonce(), False, 0, 2)
    data, ours = make_welcome(welcome, greeting.challenge, core, WORKER.address, GATEWAY, DOMAIN)
    found, theirs = check_welcome(data, greeting.challenge, greeting.hello, WORKER.address, GATEWAY.address, DOMAIN)
    assert (found, theirs) == (welcome, ours)
    one = derive_keys(greeting.gateway_ephemeral.shared(hello.public), ours)
    two = derive_keys(greeting.node_ephemeral.shared(decode_challenge(greeting.challenge).public), theirs)
    assert one == two
    assert one.from_gateway != one.from_node


def test_a_hello_answers_one_challenge_only():
    greeting = Greeting()
    with pytest.raises(LinkRefused):
        greeting.checked(challenge=Greeting().challenge)


def test_a_hello_for_one_gateway_is_useless_at_another():
    greeting = Greeting()
    with pytest.raises(LinkRefused):
        greeting.checked(gateway=OTHER_GATEWAY)


@pytest.mark.parametrize("expiry", [int(NOW) - 1, int(NOW), int(NOW) + MAX_SESSION_SECONDS + 60])
def test_a_session_that_ran_out_or_never_will_is_refused(expiry):
    with pytest.raises(LinkRefused) as raised:
        Greeting(expiry=expiry).checked()
    assert raised.value.field == "expiry"


def test_a_session_that_the_worker_did_not_sign_is_refused():
    with pytest.raises(LinkRefused):
        Greeting(signer=STRANGER).checked()


def test_a_hello_by_another_key_than_the_sessions_is_refused():
    greeting = Greeting()
    greeting.hello = make_hello(greeting.fields, greeting.challenge, GATEWAY.address, STRANGER, DOMAIN)
    with pytest.raises(LinkRefused):
        greeting.checked()


def test_a_welcome_by_another_gateway_is_refused():
    greeting = Greeting()
    _, core = greeting.checked()
    welcome = Welcome(new_nonce(), False, 0, 2)
    data, _ = make_welcome(welcome, greeting.challenge, core, WORKER.address, OTHER_GATEWAY, DOMAIN)
    with pytest.raises(LinkRefused):
        check_welcome(data, greeting.challenge, greeting.hello, WORKER.address, GATEWAY.address, DOMAIN)


@given(st.binary(max_size=300))
def test_garbage_is_refused_and_nothing_else(data):
    greeting = Greeting()
    greeting.hello = data
    for attempt in (
        greeting.checked,
        lambda: decode_challenge(data),
        lambda: decode_frame(data),
        lambda: check_welcome(data, greeting.challenge, greeting.hello, WORKER.address, GATEWAY.address, DOMAIN),
        lambda: ForwardedPack(data),
        lambda: Ephemeral().shared(data),
    ):
        with pytest.raises(LinkRefused):
            attempt()


# --- frames ---


def test_a_frame_counts_once_in_its_place_from_its_sender():
    ours, theirs = Seal(b"k" * 32), Seal(b"k" * 32)
    first, second = ours.close(b"one"), ours.close(b"two")
    assert theirs.open(first) == b"one"
    for wrong in (first, second[:-1] + b"x", Seal(b"j" * 32).close(b"two"), b"", b"short"):
        fresh = Seal(b"k" * 32)
        fresh.open(first)
        with pytest.raises(LinkRefused):
            fresh.open(wrong)
    assert theirs.open(second) == b"two"


@given(
    st.lists(st.tuples(st.integers(0, 3 * 64), st.booleans()), max_size=40),
    st.integers(0, 1 << 32),
)
def test_whatever_is_cut_every_message_comes_once_and_in_order(messages, seed):
    """Frames and acknowledgements are lost from a random point on until the next resumption."""
    random = Random(seed)
    outbox, inbox, got, sent = Outbox(), Inbox(), [], []

    def deliver(frames):
        for frame in frames:
            if random.random() < 0.2:
                return False
            message = inbox.take(frame)
            if message is not None:
                got.append(message)
            if random.random() < 0.5:
                outbox.ack(inbox.received)
        return True

    for size, resume in messages:
        payload = secrets.token_bytes(size)
        sent.append(payload)
        whole = deliver(outbox.put(Kind.RESULTS, payload, 1e12))
        if resume or not whole:
            while not deliver(outbox.unacknowledged(0.0)):
                pass
    while not deliver(outbox.unacknowledged(0.0)):
        pass
    assert got == sent
    outbox.ack(inbox.received)
    assert outbox.size == 0


def test_a_long_message_travels_in_parts_and_resumes_in_its_middle():
    outbox, inbox = Outbox(), Inbox()
    payload = secrets.token_bytes(3 * CHUNK_BYTES + 5)
    frames = outbox.put(Kind.PACK, payload, 1e12)
    assert [len(encode_frame(frame)) < (1 << 20) for frame in frames] == [True] * 4
    assert inbox.take(frames[0]) is None
    outbox.ack(inbox.received)
    rest = [inbox.take(frame) for frame in outbox.unacknowledged(0.0)]
    assert rest[-1] == payload


def test_what_nobody_waits_for_is_not_sent_again():
    outbox, inbox = Outbox(), Inbox()
    outbox.put(Kind.PACK, b"late", 10.0)
    outbox.put(Kind.PACK, b"in time", 30.0)
    assert [inbox.take(frame) for frame in outbox.unacknowledged(20.0)] == [b"in time"]
    assert outbox.size == len(b"in time")


def test_acknowledging_what_was_never_sent_and_endless_messages_are_refused():
    with pytest.raises(LinkRefused):
        Outbox().ack(1)
    with pytest.raises(LinkRefused):
        Inbox().take(Frame(Kind.PACK, 1, 0, 0, b"a middle"))
    inbox, part = Inbox(), b"\0" * CHUNK_BYTES
    inbox.take(Frame(Kind.PACK, 1, 0, 1, part))
    with pytest.raises(LinkRefused):
        for seq in range(2, MAX_MESSAGE_BYTES // CHUNK_BYTES + 3):
            inbox.take(Frame(Kind.PACK, seq, 0, 0, part))


# --- passing on ---


def test_a_pack_is_passed_on_with_its_own_reply_list_and_inputs_beside_it(link_job):
    jobs = tuple(link_job(inputs=b"x" * size, reply_to="worker.of.somebody.else") for size in (10, 200))
    pack = ForwardedPack(encode_pack(Pack(jobs)))
    [(job, inputs)] = pack.take_out(100, lambda request_id, attempt: blob_key("in", request_id, attempt))
    assert (job.request_id, inputs) == (jobs[1].request_id, b"x" * 200)
    passed = decode_pack(pack.to_bytes("reply:mine")).jobs
    assert [job.reply_to for job in passed] == ["reply:mine"] * 2
    assert [job.inputs_ref for job in passed] == [None, blob_key("in", jobs[1].request_id, "0")]


def test_jobs_that_are_here_already_are_left_out(link_job):
    jobs = tuple(link_job() for _ in range(3))
    pack = ForwardedPack(encode_pack(Pack(jobs)))
    pack.drop({(jobs[1].request_id, "0")})
    assert [job.request_id for job in decode_pack(pack.to_bytes("reply:mine")).jobs] == [
        jobs[0].request_id,
        jobs[2].request_id,
    ]


def test_a_job_that_names_a_key_of_the_nodes_broker_is_refused(link_job):
    with pytest.raises(LinkRefused):
        ForwardedPack(encode_pack(Pack((link_job(inputs=None, inputs_ref="secret"),))))


def test_outputs_are_put_in_under_their_own_name_only():
    request_id = b"\x01" * 32
    name = blob_key("out", request_id, "0")
    rows = [
        Result(request_id, "0", ok=True, outputs_ref=name),
        Result(b"\x02" * 32, "0", ok=True, outputs_ref="secret"),
    ]
    results = ForwardedResults(encode_results(rows))
    assert results.references == [name]
    assert results.finished == [(request_id, "0"), (b"\x02" * 32, "0")]
    passed = decode_results(results.to_bytes({name: b"outputs", "secret": b"no"}))
    assert [(one.outputs, one.outputs_ref) for one in passed] == [(b"outputs", None), (None, "secret")]
