"""A request that arrives whole takes the short way, in pieces uvicorn's: a client must not be able to tell."""

import asyncio
import json
import socket
import threading
import time
from functools import partial

import pytest
import uvicorn
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from market.gateway import connection as under_test
from market.gateway.connection import MAX_HEAD_BYTES, Connection, ConnectionLimits, body_to_come, read_whole

pytestmark = pytest.mark.integration

PATH = "/v2/models/twice/infer"
SEEN: list[str] = []
KEEP_ALIVE_SECONDS = 0.4


def told(path: str, headers: dict[str, str], body: bytes) -> bytes:
    return json.dumps([path, sorted(headers.items()), body.hex()]).encode()


async def app(scope, receive, send):
    SEEN.append("uvicorn")
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for piece in (b"data: 1\n\n", b"", b"data: " + b"2" * 300_000 + b"\n\n"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        return
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    content = told(scope["path"], headers, body)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]})
    await send({"type": "http.response.body", "body": content})


class Told:
    def begin(self, data, peer, common, done):
        assert peer == "127.0.0.1"
        request = read_whole(data)
        if request is None or not data.endswith(b"plain"):
            return False
        SEEN.append("plain")
        content = told(request.path, request.headers, request.body)
        response = b"content-length: %d\r\n\r\n" % len(content) + content
        seconds = 2.5 * KEEP_ALIVE_SECONDS if b"slow" in data else 0.005
        asyncio.get_running_loop().call_later(seconds, lambda: done(b"HTTP/1.1 200 OK\r\n" + common() + response))
        return True

    async def answer(self, request, common, peer):
        assert peer == "127.0.0.1"
        if b"decline" in request.body:
            return None
        SEEN.append("short")
        content = told(request.path, request.headers, request.body)
        return b"HTTP/1.1 200 OK\r\n" + common + b"content-length: %d\r\n\r\n" % len(content) + content


@pytest.fixture(scope="module")
def address():
    yield from serving(ConnectionLimits(header_seconds=10, body_seconds=10, most=1_000, most_by_address=1_000))


@pytest.fixture(scope="module")
def hasty():
    """A server that soon closes what rests."""
    yield from serving(ConnectionLimits(10, 10, 1_000, 1_000), timeout_keep_alive=KEEP_ALIVE_SECONDS)


# By their addresses.
RUNNING: dict[tuple[str, int], uvicorn.Server] = {}


def serving(limits: ConnectionLimits, **uvicorns):
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 131_072)  # as the gateway's own
    config = uvicorn.Config(
        app, http=partial(Connection, Told(), limits), loop="uvloop", lifespan="off", log_config=None, **uvicorns
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    RUNNING[listener.getsockname()] = server
    yield listener.getsockname()
    del RUNNING[listener.getsockname()]
    server.should_exit = True
    thread.join(15)
    assert not thread.is_alive()
    listener.close()


def request(body: bytes = b"{}", *headers: str, path: str = PATH, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def answers(address, *pieces: bytes, count: int = 1) -> list[bytes]:
    """Send pieces apart; return the status lines and bodies of the answers."""
    found = []
    with socket.create_connection(address, timeout=3) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(0.02)
            client.sendall(piece)
        stream = client.makefile("rb")
        for _ in range(count):
            status = stream.readline()
            length = 0
            while (line := stream.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            found.append(status.split(b" ", 2)[1] + b" " + stream.read(length))
    return found


def test_a_whole_request_takes_the_short_way(address):
    SEEN.clear()
    whole = answers(address, request(b'{"a":1}', "Market-Voucher: 0x11;5;0x22"))
    assert SEEN == ["short"]
    parts = request(b'{"a":1}', "Market-Voucher: 0x11;5;0x22")
    assert answers(address, parts[:40], parts[40:]) == whole
    assert SEEN == ["short", "uvicorn"]


def split(whole: bytes) -> tuple[bytes, bytes]:
    end = whole.index(b"\r\n\r\n") + 4
    return whole[:end], whole[end:]


def test_a_body_in_segments_of_its_own_takes_the_short_way_too(address):
    SEEN.clear()
    whole = request(b"0123456789 plain")
    head, body = split(whole)
    expected = answers(address, whole)
    assert answers(address, head, body) == answers(address, head, body[:3], body[3:]) == expected
    assert SEEN == ["plain"] * 3


def test_a_body_that_does_not_come_soon_is_uvicorns_to_wait_for(address, monkeypatch):
    monkeypatch.setattr("market.gateway.connection._AWAITED_SECONDS", 0.005)
    SEEN.clear()
    whole = request(b"0123456789 plain")
    head, body = split(whole)
    assert answers(address, head, body) == answers(address, head, body[:3], body[3:]) == answers(address, whole)
    assert SEEN == ["uvicorn", "uvicorn", "plain"]


def test_what_comes_behind_an_awaited_body_is_answered_next(address):
    SEEN.clear()
    head, body = split(request(b"1 plain"))
    found = answers(address, head, body + request(b"2"), count=2)
    assert [bytes.fromhex(json.loads(one[4:])[2])[:1] for one in found] == [b"1", b"2"]


@pytest.mark.parametrize("line", ["Transfer-Encoding: chunked", "Expect: 100-continue", "Upgrade: x"])
def test_no_body_is_awaited_that_is_framed_otherwise(line):
    assert body_to_come(split(request(b"{}", line))[0]) == 0


@pytest.mark.parametrize("size", [0, 99_999, 100_000])
def test_no_body_is_awaited_that_is_none_or_large(size):
    assert body_to_come(split(request(b"", length=size))[0]) == 0


def test_a_client_that_leaves_before_its_body_harms_nobody(address):
    for _ in range(5):
        with socket.create_connection(address, timeout=3) as client:
            client.sendall(split(request(b"plain"))[0])
    assert answers(address, request(b"plain"))[0].startswith(b"200")


def test_what_the_short_way_declines_goes_on_to_the_application(address):
    SEEN.clear()
    assert answers(address, request(b"decline"))[0].startswith(b"200")
    assert SEEN == ["uvicorn"]


def test_requests_sent_ahead_are_answered_in_order(address):
    ahead = b"".join(request(b"%d" % n) for n in range(5))
    found = answers(address, ahead, count=5)
    assert [bytes.fromhex(json.loads(one[4:])[2]) for one in found] == [b"%d" % n for n in range(5)]


def test_both_ways_mix_on_one_connection(address):
    SEEN.clear()
    one, two, three = request(b"1"), request(b"2"), request(b"3")
    found = answers(address, one, two[:30], two[30:], three, count=3)
    assert [bytes.fromhex(json.loads(answer[4:])[2]) for answer in found] == [b"1", b"2", b"3"]
    assert SEEN == ["short", "uvicorn", "short"]


def test_what_is_begun_and_answered_later_keeps_its_order(address):
    SEEN.clear()
    pieces = [request(b"1 plain"), request(b"2"), request(b"3 plain") + request(b"4 plain")]
    found = answers(address, b"".join(pieces[:1]), *pieces[1:], count=4)
    assert [bytes.fromhex(json.loads(answer[4:])[2])[:1] for answer in found] == [b"1", b"2", b"3", b"4"]
    assert SEEN[:2] == ["plain", "short"]


def test_a_client_that_leaves_before_its_plain_answer_harms_nobody(address):
    for _ in range(5):
        with socket.create_connection(address, timeout=3) as client:
            client.sendall(request(b"plain"))
    assert answers(address, request(b"plain"))[0].startswith(b"200")


def test_a_client_that_leaves_harms_nobody(address):
    for _ in range(5):
        with socket.create_connection(address, timeout=3) as client:
            client.sendall(request())
    assert answers(address, request())[0].startswith(b"200")


ODD = [
    "Transfer-Encoding: chunked",
    "Content-Length: 2",
    "content-length: 7",
    "Expect: 100-continue",
    "Connection: close",
    "Connection: upgrade",
    "Content-Encoding: gzip",
    " folded: yes",
    "no colon",
    "two words: x",
    ": empty",
    "bare: line\nbreak",
    "bare: carriage\rreturn",
    "zero: \0",
]


@pytest.mark.parametrize("line", ODD)
def test_odd_headers_are_left_to_uvicorn(line):
    assert read_whole(request(b"{}", line)) is None


@pytest.mark.parametrize(
    "data",
    [
        request(b"{}", length=1),
        request(b"{}", length=3),
        request(b"{}", path="/v2/models/a%20b/infer"),
        request(b"{}", path="/v2/models/a/infer?x=1"),
        request(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
        request(b"{}").replace(b"Content-Length: 2", b"Content-Length: +2"),
        request(b"{}").replace(b"Content-Length: 2\r\n", b""),
        request(b"{}").replace(b"\r\n", b"\n"),
        request(b"{}", "Market-Worker: 0x1 "),
        request(b"{}").replace(b"POST", b"PUT"),
        request(b"{}")[:-2],
        b"",
    ],
)
def test_what_is_not_plainly_whole_is_left_to_uvicorn(data):
    assert read_whole(data) is None


def test_blanks_behind_a_value_are_no_part_of_it(address):
    whole = request(b"{}", "Market-Worker:  0x1 \t ", "Market-Region:\teu ")
    for pieces in ((whole,), (whole[:70], whole[70:]), (whole[:71], whole[71:])):
        headers = dict(json.loads(answers(address, *pieces)[0][4:])[1])
        assert headers["market-worker"] == "0x1"
        assert headers["market-region"] == "eu"


@pytest.mark.parametrize(
    "lines",
    [
        ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"],
        ["Upgrade: websocket", "Connection: upgrade"],
    ],
    ids=["Java's client", "a POST for a WebSocket"],
)
def test_a_request_that_asks_for_another_protocol_is_answered_in_this_one(address, lines):
    wanting, plain = request(b"body", *lines), request(b"2")
    expected = dict(json.loads(answers(address, wanting)[0][4:])[1])
    assert expected["content-length"] == "4"
    assert "upgrade" not in expected
    head = wanting.index(b"\r\n\r\n") + 4
    for pieces in (
        (wanting + wanting + plain,),
        (wanting[:head], wanting[head:] + wanting, plain),
        (wanting[:60], wanting[60:], wanting, plain),
    ):
        found = answers(address, *pieces, count=3)
        assert [bytes.fromhex(json.loads(one[4:])[2]) for one in found] == [b"body", b"body", b"2"]


def test_a_request_in_chunks_that_asks_for_another_protocol_is_answered_too(address):
    head = request(b"", "Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked")
    whole = head.replace(b"Content-Length: 0\r\n", b"") + b"2\r\n{}\r\n0\r\n\r\n"
    assert bytes.fromhex(json.loads(answers(address, whole)[0][4:])[2]) == b"{}"


def refused(address, *pieces: bytes) -> tuple[int, dict]:
    """Send pieces; return the status and document of the refusal behind which the connection is closed."""
    with socket.create_connection(address, timeout=10) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
        except OSError:
            pass  # refused before it was all sent
        found = b""
        try:
            while piece := client.recv(65_536):
                found += piece
        except ConnectionResetError:
            pass
    head, _, body = found.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)


ENDLESS = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: "


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /a HTTP/1.1\r\nX: ", *[b"a" * 8_192] * 9],
        [b"GET /a HTTP/1.1\r\n", *[b"X: abcdefgh\r\n" * 1_000] * 9],
        [b"GET /a HTTP/1.1\r\nX: " + b"a" * (MAX_HEAD_BYTES + 1) + b"\r\n\r\n"],
        [b"GET /", *[b"a" * 8_192] * 9],
        [b"GET /a HTTP/1.1\r\n" + b"a" * (MAX_HEAD_BYTES + 1)],
    ],
    ids=["one header", "many headers", "at once", "the path", "a name"],
)
def test_headers_without_end_are_refused(address, pieces):
    status, said = refused(address, *pieces)
    assert (status, said["code"], said["field"]) == (431, "headers-too-large", "headers")
    assert answers(address, request())[0].startswith(b"200")


def test_what_follows_a_body_in_chunks_has_the_same_end(address):
    # What comes with the body, a read of 256 KiB at most, is not counted; what follows it is.
    status, said = refused(address, ENDLESS, *[b"a" * 8_192] * 64)
    assert (status, said["code"]) == (431, "headers-too-large")
    assert answers(address, request())[0].startswith(b"200")


@pytest.mark.parametrize("path", ["/a", PATH])
def test_headers_of_a_usual_size_are_taken_whole_and_in_pieces(address, path):
    large = request(b"{}", "X: " + "a" * (MAX_HEAD_BYTES - 200), path=path)
    assert answers(address, large) == answers(address, large[:40_000], large[40_000:])


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"FOO /a HTTP/1.1\r\n\r\n",
        request(b"{}", "Content-Length: 5"),
        request(b"{}", "Transfer-Encoding: chunked"),
        request(b"{}", "bad name: x"),
    ],
    ids=["TLS", "HTTP/2", "no method", "two lengths", "two framings", "a blank in a name"],
)
def test_what_is_no_request_is_told_so_by_a_code(address, data):
    status, said = refused(address, data)
    assert (status, said["code"], said["field"]) == (400, "invalid-request", "request")
    assert said["remedy"]


@pytest.mark.parametrize("path", [PATH, "/a"])
@pytest.mark.parametrize(
    "version", ["HTTP/2.0", "HTTP/0.9", "HTTP/1.7", "HTTP/1.10", "HTTP/2", "HTTP/3.0", "http/1.1", "HTTP/01.1", "x", ""]
)
def test_other_versions_are_answered_by_none_of_ours(address, path, version):
    SEEN.clear()
    status, said = refused(address, request(path=path).replace(b" HTTP/1.1", f" {version}".rstrip().encode()))
    known = version in {"HTTP/2.0", "HTTP/0.9", ""}
    assert (status, said["code"], said["field"]) == (505 if known else 400, "invalid-request", "request")
    assert "HTTP/1.1" in said["remedy"]
    assert not SEEN


def test_a_websocket_is_none_of_another_version(address):
    lines = "\r\n".join(["GET /market/v1/link HTTP/2.0", *KEYED[1:], "", ""])
    assert refused(address, lines.encode())[0] == 505


def until_closed(address, data: bytes) -> tuple[bytes, bytes]:
    with socket.create_connection(address, timeout=5) as client:
        client.sendall(data)
        found = b""
        while piece := client.recv(65_536):
            found += piece
    head, _, body = found.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("more", [(), ("Connection: keep-alive",)])
def test_a_stream_to_a_client_of_http_1_0_ends_with_the_connection_and_has_no_chunks(address, more):
    old = request(b"{}", *more, path="/stream").replace(b"HTTP/1.1", b"HTTP/1.0")
    head, body = until_closed(address, old)
    assert b"chunked" not in head
    assert b"connection: close" in head
    assert body == b"data: 1\n\ndata: " + b"2" * 300_000 + b"\n\ndata: [DONE]\n\n"
    head, body = until_closed(address, request(b"{}", "Connection: close", path="/stream"))
    assert b"transfer-encoding: chunked" in head
    assert body.startswith(b"9\r\ndata: 1\n\n\r\n")
    head, body = until_closed(address, old.replace(b"/stream", b"/a"))
    assert b"content-length: %d" % len(body) in head


@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip", "identity", "x"])
def test_other_transfer_codings_than_chunks_are_not_taken_for_none(address, coding):
    line = f"Transfer-Encoding: {coding}"
    chunks = request(b"", line).replace(b"Content-Length: 0\r\n", b"") + b"2\r\n{}\r\n0\r\n\r\n"
    status, said = refused(address, chunks)
    assert (status, said["code"], said["field"]) == (501, "invalid-request", "Transfer-Encoding")
    assert answers(address, request())[0].startswith(b"200")


WEBSOCKET = ["GET /market/v1/link HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket"]
KEYED = [*WEBSOCKET, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]


@pytest.mark.parametrize(
    "lines",
    [
        [*WEBSOCKET, "Content-Length: 2"],
        [*KEYED, "Content-Length: 2"],
        [*KEYED, "Transfer-Encoding: chunked"],
        [*KEYED, "X: " + "a" * 20_000],
        [*KEYED, *(f"X{number}: a" for number in range(300))],
    ],
    ids=["no key", "a length", "chunks", "a long header", "many headers"],
)
def test_who_asks_for_a_websocket_so_that_it_cannot_be_read_is_refused_and_not_kept(address, lines):
    status, said = refused(address, "\r\n".join([*lines, "", ""]).encode())
    assert (status, said["code"], said["field"]) == (400, "invalid-request", "Upgrade")
    assert answers(address, request())[0].startswith(b"200")


def test_a_body_that_breaks_off_leaves_no_trace_in_the_log(address, caplog):
    chunks = request(b"", "Transfer-Encoding: chunked", path="/a").replace(b"Content-Length: 0\r\n", b"")
    status, _ = refused(address, chunks + b"zz\r\n")
    assert status == 400
    assert answers(address, request())[0].startswith(b"200")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


TEXT = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(["A", "b-c", "Connection", "X", "Te"]), TEXT), max_size=3),
    st.binary(max_size=40),
)
@example([("A", "  x\t")], b"")
@example([("A", "\x80\xff")], b"x")
@example([("A", "0 ")], b"")
def test_both_ways_read_the_same(address, headers, body):
    """Whenever the short way takes a request, uvicorn would have read the same from it."""
    data = request(body, *(f"{name}: {value}" for name, value in headers))
    found = read_whole(data)
    if found is not None:
        assert answers(address, data[:50], data[50:]) == [b"200 " + told(found.path, found.headers, found.body)]


@pytest.fixture(scope="module")
def strict():
    yield from serving(ConnectionLimits(header_seconds=0.5, body_seconds=0.5, most=1_000, most_by_address=6))


def ended(client: socket.socket, *, trickle: bytes = b"") -> bytes:
    """Read until the server closes, sending `trickle` again and again; what was read."""
    found = b""
    client.settimeout(0.1)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            if trickle:
                client.sendall(trickle)
            piece = client.recv(65_536)
        except TimeoutError:
            continue
        except OSError:
            return found
        if not piece:
            return found
        found += piece
    pytest.fail("the server held a slow client")


@pytest.mark.parametrize(
    ("first", "trickle"),
    [
        (b"", b""),
        (b"", b"\r\n"),
        (b"POST /v2/models/twice/infer HTTP/1.1\r\n", b"X: y\r\n"),
        (request(b"{", length=1_000), b" "),
        (request(b"{", length=1_000, path="/elsewhere"), b" "),
        (b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
    ids=["silence", "empty lines", "headers", "body", "body elsewhere", "chunks"],
)
def test_a_slow_client_is_shown_out_whatever_it_trickles(strict, first, trickle):
    with socket.create_connection(strict, timeout=20) as client:
        client.sendall(first)
        ended(client, trickle=trickle)
    assert answers(strict, request())[0].startswith(b"200")


def test_a_slow_client_is_shown_out_after_a_request_that_was_answered_too(strict):
    with socket.create_connection(strict, timeout=20) as client:
        client.sendall(request())
        assert client.recv(12) == b"HTTP/1.1 200"
        client.sendall(b"POST /v2/mod")
        late = ended(client)
        assert b"408" in late
        assert b"invalid-request" in late


def is_held(server: tuple[str, int], client: socket.socket) -> bool:
    """Tell whether the server has this client's connection; those of earlier tests may end meanwhile."""
    return any(one.client == client.getsockname() for one in list(RUNNING[server].server_state.connections))


@pytest.mark.parametrize("path", ["/a", PATH])
@pytest.mark.parametrize("more", [(), ("Connection: close",)], ids=["kept alive", "to be closed"])
def test_who_does_not_read_its_answer_is_cut_off(hasty, monkeypatch, path, more):
    monkeypatch.setattr(under_test, "UNREAD_SECONDS", 0.5)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(hasty)
        # Its answer is twice as long, and more than the kernel takes.
        client.sendall(request(b"x" * 4_000_000, *more, path=path))
        until = time.monotonic() + 10
        while not is_held(hasty, client) and time.monotonic() < until:
            time.sleep(0.01)
        assert is_held(hasty, client)
        while is_held(hasty, client) and time.monotonic() < until:
            time.sleep(0.05)
        assert not is_held(hasty, client), "it and its answer are held for ever"


def test_who_reads_slowly_has_the_whole_answer(hasty, monkeypatch):
    monkeypatch.setattr(under_test, "UNREAD_SECONDS", 0.5)
    found = 0
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(hasty)
        client.settimeout(5)
        client.sendall(request(b"x" * 2_500_000, "Connection: close", path="/a"))
        began = time.monotonic()
        while piece := client.recv(65_536):
            found += len(piece)
            time.sleep(0.005)
    assert found > 5_000_000
    assert time.monotonic() - began > 1.5


def test_one_address_holds_its_share_of_the_connections_and_no_more(strict):
    held = [socket.create_connection(strict, timeout=20) for _ in range(6)]
    try:
        for client in held:
            client.sendall(request())
            assert client.recv(12) == b"HTTP/1.1 200"
        with socket.create_connection(strict, timeout=20) as client:
            full = ended(client)
            assert full.startswith(b"HTTP/1.1 503")
            assert b"capacity-error" in full
    finally:
        for client in held:
            client.close()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            assert answers(strict, request())[0].startswith(b"200")
            return
        except (AssertionError, OSError, IndexError):
            time.sleep(0.1)
    pytest.fail("connections that were closed still count")


PLAIN, WHOLE = request(b"0123456789 plain"), request(b"0123456789")


def answer_of(stream) -> bytes:
    length = 0
    while (line := stream.readline().strip()) != b"":
        length = int(line.split(b":")[1]) if line.lower().startswith(b"content-length:") else length
    return stream.read(length)


def seconds_open(address, *requests: tuple[bytes, float]) -> float:
    """Send each request and rest so long after its answer; returns how long the connection then stays open."""
    with socket.create_connection(address, timeout=5) as client:
        stream = client.makefile("rb")
        for whole, rest in requests:
            client.sendall(whole)
            assert answer_of(stream)
            time.sleep(rest)
        began = time.monotonic()
        assert stream.read() == b""
        return time.monotonic() - began


@pytest.mark.parametrize("before", [(), (WHOLE,), (WHOLE, PLAIN), (PLAIN, WHOLE)], ids=str)
@pytest.mark.parametrize("last", [PLAIN, WHOLE], ids=["plain", "whole"])
def test_a_connection_at_rest_is_closed_in_time(hasty, before, last):
    rested = seconds_open(hasty, *((one, 0.0) for one in (*before, last)))
    assert 0.5 * KEEP_ALIVE_SECONDS < rested < 4 * KEEP_ALIVE_SECONDS


@pytest.mark.parametrize("whole", [PLAIN, WHOLE], ids=["plain", "whole"])
@pytest.mark.parametrize("before", [PLAIN, WHOLE], ids=["plain", "whole"])
def test_a_request_that_arrives_slowly_is_no_rest(hasty, before, whole):
    with socket.create_connection(hasty, timeout=5) as client:
        stream = client.makefile("rb")
        client.sendall(before)
        assert answer_of(stream)
        client.sendall(whole[:-3])
        time.sleep(1.5 * KEEP_ALIVE_SECONDS)
        client.sendall(whole[-3:])
        assert answer_of(stream)


def test_who_goes_on_asking_is_not_cut_off_by_an_earlier_rest(hasty):
    # Longer in all than what may be rested at a stretch, on either way and from one to the other.
    turns = [(PLAIN, 0.6), (PLAIN, 0.6), (PLAIN, 0.6), (WHOLE, 0.6), (PLAIN, 0.6), (WHOLE, 0.6), (WHOLE, 0.6)]
    assert seconds_open(hasty, *((one, rest * KEEP_ALIVE_SECONDS) for one, rest in turns), (PLAIN, 0.0)) > 0


@pytest.mark.parametrize("before", [PLAIN, WHOLE], ids=["plain", "whole"])
def test_a_slow_answer_is_no_rest(hasty, before):
    rested = seconds_open(hasty, (before, 0.0), (request(b"slow plain"), 0.0))
    assert 0.5 * KEEP_ALIVE_SECONDS < rested < 4 * KEEP_ALIVE_SECONDS
