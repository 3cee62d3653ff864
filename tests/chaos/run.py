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
from dataclasses import dataclass, field
from pathlib import Path

from market.devnet.process import terminate_as_interrupt
from tests.chaos.arena import Arena
from tests.chaos.faults import draw
from tests.chaos.history import Findings, check, is_settled
from tests.chaos.load import Client

RECOVERY_SECONDS = 90.0
SETTLED_SECONDS = 120.0


@dataclass
class Report:
    seed: int
    faults: Counter = field(default_factory=Counter)
    recovery_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    restarts: int = 0
    asked_again: int = 0
    outcomes: Counter = field(default_factory=Counter)
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
            },
            "programs that ended by themselves": self.restarts,
            "asked again": self.asked_again,
            "outcomes": dict(self.outcomes.most_common()),
            **dict(self.findings.counts),
            "violations": self.findings.violations,
        }


def run(
    folder: Path, *, seed: int, faults: int, clients: int = 3, seconds: float = 86_400.0, say=lambda line: None
) -> Report:
    chance, report, began = random.Random(seed), Report(seed), time.monotonic()
    with Arena(folder) as arena:
        arena.start_services()
        arena.deploy()
        arena.list_model()
        arena.register_worker()
        arena.start_programs()
        users = [
            Client(arena.gateway_url, wallet, channel, arena.chain.domain)
            for wallet, channel in arena.open_channels(clients)
        ]
        for user in users:
            user.market.wait_for_channel(user.channel_id, deposited=20_000_000)
        for user in users:
            user.start()
        _await_answer(arena, users, time.monotonic())
        for together in draw(chance, faults):
            if time.monotonic() - began > seconds:
                break
            names = [fault.name for fault in together]
            started = time.monotonic()
            mends = [fault.apply(arena, chance) for fault in together]
            time.sleep(chance.uniform(0.1, 1.5))
            for mend in mends:
                mend()
            mended = time.monotonic()
            took = _await_answer(arena, users, mended)
            report.recovery_seconds.append(took)
            report.faults.update(names)
            if took >= RECOVERY_SECONDS:
                report.findings.violations.append(f"no answer within {RECOVERY_SECONDS:.0f} s of {names}")
            say(f"{sum(report.faults.values()):4d} {', '.join(names)}: {mended - started:.1f} s, then {took:.1f} s")
            time.sleep(chance.uniform(0.0, 0.5))
        for user in users:
            user.stop()
        report.asked_again = sum(user.ask_again_for_the_unknown() for user in users)
        deadline = time.monotonic() + SETTLED_SECONDS
        while not is_settled(arena.database_url, arena.chain) and time.monotonic() < deadline:
            arena.start_the_dead()
            time.sleep(0.5)
        violations = report.findings.violations
        report.findings = check(users, arena.database_url, arena.chain)
        report.findings.violations[:0] = violations
        for user in users:
            for one in user.history:
                report.outcomes.update(one.attempts)
            user.market.close()
        report.restarts = arena.restarts
    report.seconds = time.monotonic() - began
    return report


def _await_answer(arena: Arena, users: list[Client], since: float) -> float:
    """Wait until a client is answered again; returns how long that took, in seconds."""
    while time.monotonic() - since < RECOVERY_SECONDS:
        last = max(user.last_answer_at for user in users)
        if last > since:
            return last - since
        arena.start_the_dead()
        time.sleep(0.05)
    return RECOVERY_SECONDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--clients", type=int, default=3)
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
