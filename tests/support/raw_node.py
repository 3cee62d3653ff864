"""A node that speaks the link's protocol by hand, to lie, repeat, flood or fall silent in it."""

import asyncio
import secrets
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from contracts.protocol.link import (
    LINK_PATH,
    Ephemeral,
    Hello,
    check_welcome,
    decode_challenge,
    derive_keys,
    make_hello,
    new_nonce,
)
from contracts.protocol.link_frames import Frame, Kind, Seal, decode_frame, encode_frame
from contracts.protocol.messages import Result, encode_results
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Domain, WorkerSession
from tests.support.money import DOMAIN, GATEWAY


class RawNode:
    """A node that does as it likes with a worker's key."""

    def __init__(
        self, port: int, key: PrivateKey, *, gateway: bytes = GATEWAY.address, domain: Domain = DOMAIN, window: int = 2
    ) -> None:
        self.url = f"ws://127.0.0.1:{port}{LINK_PATH}"
        self.key, self.window, self.gateway, self.domain = key, window, gateway, domain
        self.session_key = PrivateKey.generate()
        self.seq = 0

    async def hello(self, **changes) -> bytes:
        self.socket = await connect(self.url, compression=None, max_size=1 << 24)
        self.challenge = await self.socket.recv()
        self.ephemeral = Ephemeral()
        expiry = changes.pop("expiry", int(time.time()) + 600)
        session = WorkerSession(self.key.address, self.session_key.address, expiry)
        fields = {
            "worker": self.key.address,
            "session_key": self.session_key.address,
            "expiry": expiry,
            "session_signature": self.key.sign_digest(session.digest(self.domain)),
            "nonce": new_nonce(),
            "public": self.ephemeral.public,
            "resume": b"",
            "received": 0,
            "window": self.window,
        }
        hello = Hello(**(fields | changes))
        return make_hello(hello, self.challenge, self.gateway, self.session_key, self.domain)

    async def open(self, **changes) -> "RawNode":
        said = await self.hello(**changes)
        await self.socket.send(said)
        answer = await self.socket.recv()
        _, transcript = check_welcome(answer, self.challenge, said, self.key.address, self.gateway, self.domain)
        keys = derive_keys(self.ephemeral.shared(decode_challenge(self.challenge).public), transcript)
        self.closer, self.opener = Seal(keys.from_node), Seal(keys.from_gateway)
        return self

    async def send(self, kind: int, payload: bytes, *, seq: int | None = None, flags: int = 3, ack: int = 0) -> None:
        if seq is None:
            self.seq += kind == Kind.RESULTS
            seq = self.seq if kind == Kind.RESULTS else 0
        await self.socket.send(self.closer.close(encode_frame(Frame(kind, seq, ack, flags, payload))))

    async def receive(self) -> Frame:
        return decode_frame(self.opener.open(await self.socket.recv()))

    async def closed(self) -> int:
        with pytest.raises(ConnectionClosed) as raised:
            while True:
                await asyncio.wait_for(self.socket.recv(), 20)
        return raised.value.rcvd.code if raised.value.rcvd is not None else 1006

    async def flood(self) -> int:
        """Send results that nobody asked for until the link is closed; returns by which code."""
        rows = [Result(secrets.token_bytes(32), "0", ok=True, outputs=b"") for _ in range(100)]
        try:
            while True:
                await self.send(Kind.RESULTS, encode_results(rows))
                await asyncio.sleep(0)
        except ConnectionClosed as error:
            return error.rcvd.code if error.rcvd is not None else 1006


async def refused(node: RawNode, said: bytes) -> int:
    """Say hello in vain; returns by which code the link is closed."""
    await node.socket.send(said)
    return await node.closed()
