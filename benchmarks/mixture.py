"""The paid mixture that soak and overload send, and how it is driven.

Of a hundred requests 92 are tiny tensors paid by session vouchers on four channels, 5 tiny tensors with a voucher and a
request id each on a fifth, as our own clients send them, and 3 embeddings of 32 tokens by session voucher: the model's
time and the market's then weigh about the same.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.models import Workload
from benchmarks.servers import OwnMarket, body_of, build_load_generator, pack_request, request_bytes
from contracts.protocol.hexes import hex0x
from contracts.protocol.money import ATOMIC_PER_TOKEN
from contracts.protocol.request_ids import new_request_id
from contracts.protocol.typed_data import Channel
from market.demo.network import MIN_PRICE

SESSION, EACH, EMBED = range(3)
CLASSES = {SESSION: "tiny, session voucher", EACH: "tiny, voucher and id each", EMBED: "embedding"}
CYCLE = 100
SESSION_CHANNELS = 4
DEPOSIT = 20_000 * ATOMIC_PER_TOKEN
# A voucher covers its own request and so many that may be charged before it.
AHEAD = 4_096


class Mixture:
    """Five funded channels, and files of requests that pay from them."""

    def __init__(self, own: OwnMarket, workloads: dict[str, Workload], folder: Path) -> None:
        self._own, self._folder = own, folder
        self._domain = own.local.chain.domain
        self._bodies = {name: body_of("oip", workload) for name, workload in workloads.items()}
        self.channels = [self._open() for _ in range(SESSION_CHANNELS + 1)]
        tiny = [self._request("tiny", channel, DEPOSIT) for channel in self.channels[:-1]]
        self._tiny = [pack_request(one, SESSION) for one in tiny]
        self._embed = [pack_request(self._request("embed", channel, DEPOSIT), EMBED) for channel in self.channels[:-1]]
        self._vouchers = self._each()
        self._files = 0

    def _open(self) -> Channel:
        own = self._own
        channel = own.local.chain.open_channel(own.wallet, own.local.accounts["gateway"].address, DEPOSIT)
        own.market.use_channel(channel, self._domain)
        own.market.wait_for_channel(channel.digest(self._domain), deposited=DEPOSIT)
        return channel

    def _request(self, model: str, channel: Channel, ceiling: int, **headers: str) -> bytes:
        voucher = self._own.wallet.voucher_header(channel, ceiling, self._domain)
        return request_bytes(f"/v2/models/{model}/infer", self._bodies[model], {"Market-Voucher": voucher, **headers})

    def _each(self) -> Iterator[bytes]:
        ceiling = AHEAD * MIN_PRICE
        while True:
            ceiling += MIN_PRICE
            named = {"Market-Request-Id": hex0x(new_request_id())}
            yield pack_request(self._request("tiny", self.channels[-1], min(ceiling, DEPOSIT), **named), EACH)

    def write(self, count: int, *, only: int | None = None) -> Path:
        """Write a file of at least `count` requests that were never sent; `only` one class if given."""
        cycles = -(-count // CYCLE)
        requests: list[bytes] = []
        for _ in range(cycles):
            for place in range(CYCLE):
                kind = only if only is not None else _kind(place)
                if kind == EACH:
                    requests.append(next(self._vouchers))
                else:
                    known = self._tiny if kind == SESSION else self._embed
                    requests.append(known[place % SESSION_CHANNELS])
        self._files += 1
        path = self._folder / f"mixture-{self._files % 3}.bin"
        path.write_bytes(b"".join(requests))
        return path

    def charged(self) -> int:
        """Return what the gateway says that all channels owe, in atomic units."""
        ids = [hex0x(channel.digest(self._domain)) for channel in self.channels]
        return sum(int(self._own.market.get(f"/market/v1/channels/{one}")["charged"]) for one in ids)


def _kind(place: int) -> int:
    if place % 20 == 7:
        return EACH
    return EMBED if place % 33 == 15 else SESSION


class Driver:
    """Sends files of requests: the C program where there is a compiler, else the same in Python."""

    def __init__(self, own: OwnMarket, folder: Path) -> None:
        self._port = own.local.gateway_url.rpartition(":")[2]
        try:
            self._command = [str(build_load_generator(folder))]
        except SystemExit:
            self._command = [sys.executable, str(Path(__file__).with_name("loadgen.py"))]
        self.answered = self.uncertain = 0
        self._log = folder / "refusals.log"

    def start(self, requests: Path, *, connections: int, seconds: float, rate: float = 0.0) -> subprocess.Popen:
        """Start to send; without a rate in a closed loop."""
        command = [*self._command, "127.0.0.1", self._port, str(connections), str(seconds), str(requests), "0"]
        with self._log.open("ab") as log:
            return subprocess.Popen([*command, f"{rate:.3f}"], stdout=subprocess.PIPE, stderr=log)

    def finish(self, running: subprocess.Popen) -> dict:
        """Wait for its figures, and count what was answered."""
        said, _ = running.communicate()
        if running.returncode:
            raise SystemExit(f"the load generator ended with {running.returncode}; see {self._log}")
        found = json.loads(said)
        self.answered += found["requests"] + found["late"]
        self.uncertain += found["broken"] + found["hanging"]
        return found

    def run(self, requests: Path, *, connections: int, seconds: float, rate: float = 0.0) -> dict:
        """Do both."""
        return self.finish(self.start(requests, connections=connections, seconds=seconds, rate=rate))

    def charges_agree(self, mixture: Mixture) -> tuple[bool, str]:
        """Hold what was charged against what was answered; a request whose connection broke may be either."""
        charged, least = mixture.charged(), self.answered * MIN_PRICE
        holds = least <= charged <= least + self.uncertain * MIN_PRICE
        return holds, f"{charged} for {self.answered} answers at {MIN_PRICE} each, {self.uncertain} of unknown end"
