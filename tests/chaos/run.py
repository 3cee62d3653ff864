"""Runs a seeded chaos: paying clients, random faults, then the history is held against books and chain.

Run as `python -m tests.chaos.run --seed 7 --faults 200`. The seed decides the faults and their moments; what the
processes were doing then it cannot decide.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from contracts.protocol.hexes import checksum
from market.demo.network import MINTED
from market.devnet.process import terminate_as_interrupt
from tests.chaos.arena import DEPOSIT, WORKERS, Arena
from tests.chaos.books import is_settled, read
from tests.chaos.faults import draw
from tests.chaos.history import Findings, House, check
from tests.chaos.load import Client, KeyClient, Program, WindowClient
from tests.chaos.x402 import PURSE, X402Client

RECOVERY_SECONDS = 90.0
SETTLED_SECONDS = 120.0
# A wrong clock that keeps everybody from being served is set right after this long.
SKEWED_SECONDS = 15.0
# So many rounds begin while the market still recovers from the one before.
HASTY = 0.5


@dataclass
class Report:
    seed: int
    faults: Counter = field(default_factory=Counter)
    recovery_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    restarts: int = 0
    asked_again: int = 0
    outcomes: Counter = field(default_factory=Counter)
    by_client: Counter = field(default_factory=Counter)
    by_worker: dict[str, int] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)

    def to_json(self) -> dict:
        times = sorted(self.recovery_seconds)
        return {
            "seed": self.seed,
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            "faults": sum(self.faults.values()),
            "by kind": dict(sorted(self.faults.items())),
            "seconds": round(self.seconds),
            "recovery seconds": {
                "median": round(statistics.median(times), 1),
                "p90": round(times[int(0.9 * (len(times) - 1))], 1),
                "longest": round(times[-1], 1),
            }
            if times
            else {},
            "programs that ended by themselves": self.restarts,
            "asked again": self.asked_again,
            "outcomes": dict(self.outcomes.most_common()),
            "acknowledged by client": dict(self.by_client),
            "receipts by worker": self.by_worker,
            **dict(self.findings.counts),
            "violations": self.findings.violations,
        }


def run(
    folder: Path, *, seed: int, faults: int, clients: int = 2, seconds: float = 86_400.0, say=lambda line: None
) -> Report:
    """Run it all; `clients` pay by single vouchers, one each within a window, by an API key and by x402."""
    chance, report, began = random.Random(seed), Report(seed), time.monotonic()
    with Arena(folder) as arena:
        arena.start()
        users = [*_clients(arena, [*[Client] * clients, WindowClient, KeyClient]), _x402(arena)]
        for user in users:
            user.start()
        _await_all(arena, users, report)
        say(f"ready after {time.monotonic() - began:.0f} s")
        for together in draw(chance, faults):
            if time.monotonic() - began > seconds:
                break
            arena.start_the_dead()
            names = [fault.name for fault in together]
            started = time.monotonic()
            mends = [fault.apply(arena, chance) for fault in together]
            time.sleep(chance.uniform(0.1, 1.5))
            for mend in mends:
                mend()
            mended = time.monotonic()
            report.faults.update(names)
            text = f"{sum(report.faults.values()):4d} {', '.join(names)}: {mended - started:.1f} s, then "
            if chance.random() < HASTY:
                say(text + "the next at once")
                time.sleep(chance.uniform(0.0, 2.0))
                continue
            took = _await_answer(arena, lambda: max(user.last_answer_at for user in users), mended)
            report.recovery_seconds.append(took)
            if took >= RECOVERY_SECONDS:
                report.findings.violations.append(f"no answer within {RECOVERY_SECONDS:.0f} s of {names}")
            say(f"{text}{took:.1f} s")
            time.sleep(chance.uniform(0.0, 0.5))
        arena.set_clocks_right()
        _await_all(arena, users, report)
        for user in users:
            user.stop()
        with ThreadPoolExecutor(len(users)) as pool:
            report.asked_again = sum(pool.map(lambda user: user.ask_again_for_the_unknown(), users))
        deadline = time.monotonic() + SETTLED_SECONDS
        while not is_settled(read(arena.database_url), arena.on_chain) and time.monotonic() < deadline:
            arena.start_the_dead()
            time.sleep(0.5)
        _judge(arena, users, report)
        report.restarts = arena.restarts
    report.seconds = time.monotonic() - began
    return report


def _clients(arena: Arena, kinds: list[type[Client]]) -> list[Client]:
    elsewhere = checksum(arena.accounts["node"].address)
    users = []
    for kind, (wallet, channel) in zip(kinds, arena.open_channels(len(kinds)), strict=True):
        user = kind(arena.gateway_url, wallet, channel, arena.chain.domain, elsewhere=elsewhere)
        user.market.wait_for_channel(user.channel_id, deposited=DEPOSIT)
        if isinstance(user, KeyClient):
            user.fund(DEPOSIT)
        users.append(user)
    return users


def _x402(arena: Arena) -> X402Client:
    gateway, house = (arena.accounts[name].address for name in ("gateway", "house"))
    user = X402Client(arena.gateway_url, house, gateway, arena.chain.deployment.token, arena.chain.domain)
    for payer in user.payers.values():
        arena.chain.mint(arena.wallet("deployer"), payer, PURSE)
    return user


def _judge(arena: Arena, users: list[Program], report: Report) -> None:
    history = [one for user in users for one in user.history]
    books = read(arena.database_url, arena.journals())
    signed = {user.channel_id: user.signed for user in users if isinstance(user, Client)}
    purses = {payer: PURSE for user in users if isinstance(user, X402Client) for payer in user.payers.values()}
    (own,) = {user.channel_id for user in users if isinstance(user, X402Client)}
    house = House(own, arena.accounts["house"].address, MINTED["house"])
    found = check(history, signed, books, arena.on_chain, purses, house=house)
    for user in users:
        for fault in user.wrong:
            found.must(False, f"a client saw a broken answer: {fault}")
        user.verify(arena.chain, found)
        report.outcomes.update(outcome for one in user.history for outcome in one.attempts)
        report.by_client.update(f"{user.kind}, {user.sort(one)}" for one in user.history if one.acknowledged)
        user.close()
    signers = Counter(row.worker for row in books.receipts)
    report.by_worker = {name: signers[arena.accounts[name].address] for name in WORKERS}
    found.violations[:0] = report.findings.violations
    report.findings = found


def _await_answer(arena: Arena, last_answer: Callable[[], float], since: float) -> float:
    """Wait until somebody is answered again; returns how long that took, in seconds."""
    while (waited := time.monotonic() - since) < RECOVERY_SECONDS:
        last = last_answer()
        if last > since:
            return last - since
        arena.start_the_dead()
        if waited > SKEWED_SECONDS:
            # With clocks that far apart nobody may be served; they are set right before it counts as an outage.
            arena.set_clocks_right()
        time.sleep(0.05)
    return RECOVERY_SECONDS


def _await_all(arena: Arena, users: list[Program], report: Report) -> None:
    """Wait until each client is answered: no way to pay and no lane stays broken."""
    since = time.monotonic()
    for user in users:
        if _await_answer(arena, lambda one=user: one.last_answer_of_each_sort_at, since) >= RECOVERY_SECONDS:
            report.findings.violations.append(f"the client with {user.kind} is not served any more: {user.newest()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--clients", type=int, default=2, help="that pay by single vouchers")
    parser.add_argument("--seconds", type=float, default=86_400.0, help="no new fault after this long")
    parser.add_argument("--keep", action="store_true", help="leave the folder with the programs' logs")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="market-chaos-"))
    try:
        with terminate_as_interrupt():
            report = run(
                folder,
                seed=options.seed,
                faults=options.faults,
                clients=options.clients,
                seconds=options.seconds,
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
        print(json.dumps(report.to_json(), indent=2))
    finally:
        if options.keep:
            print(f"logs: {folder}/logs", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if report.findings.violations else 0)


if __name__ == "__main__":
    main()
