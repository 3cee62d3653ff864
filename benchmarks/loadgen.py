"""The load generator where there is no C compiler: command line, file and JSON of loadgen.c, several times dearer."""

import asyncio
import json
import struct
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

DRAIN_SECONDS, PATIENCE_SECONDS, CLASSES, USAGE = 15.0, 1.0, 4, 2


@dataclass
class Load:
    """What is to be sent, and what came of it; times in seconds."""

    requests: list[tuple[int, bytes]]
    next: int
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    classes: list[list[float]] = field(default_factory=lambda: [[] for _ in range(CLASSES)])
    statuses: Counter = field(default_factory=Counter)
    broken: int = 0
    late: int = 0
    unsent: int = 0
    over: bool = False

    async def send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, due: float) -> bool:
        """Send the next request; returns whether the connection is still good."""
        kind, data = self.requests[self.next % len(self.requests)]
        self.next += 1
        started = time.monotonic()
        writer.write(data)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            self.broken += 1
            return False
        ended, status = time.monotonic(), int(head[9:12])
        if status != 200:
            self.refused.append(ended - started)
            self.statuses[str(status)] += 1
        elif self.over:
            self.late += 1
        else:
            self.answered.append(ended - (due or started))
            self.classes[kind].append(ended - (due or started))
        return b"connection: close" not in lines

    async def connection(self, host: str, port: int, due: deque[float] | None) -> None:
        """Send one request after the other; those that are `due`, or as fast as they are answered."""
        good = False
        reader = writer = None
        while not self.over:
            if due is not None and not due:
                await asyncio.sleep(0.001)
                continue
            at = due.popleft() if due is not None else 0.0
            if due is not None and time.monotonic() - at > PATIENCE_SECONDS:
                self.unsent += 1
                continue
            if not good:
                reader, writer = await asyncio.open_connection(host, port)
            assert reader is not None
            assert writer is not None
            good = await self.send(reader, writer, at)
            if not good:
                writer.close()


async def run(host: str, port: int, connections: int, seconds: float, load: Load, rate: float) -> dict:
    """Drive it; returns the figures."""
    due: deque[float] | None = deque() if rate else None
    begun = time.monotonic()
    tasks = [asyncio.create_task(load.connection(host, port, due)) for _ in range(connections)]
    arrived = 0
    while (gone := time.monotonic() - begun) < seconds:
        while due is not None and arrived < gone * rate:
            due.append(begun + arrived / rate)
            arrived += 1
        await asyncio.sleep(0.001 if rate else 0.05)
    took = time.monotonic() - begun
    load.over = True
    _, hanging = await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
    for task in hanging:
        task.cancel()
    ok = sorted(load.answered)
    refused = sorted(load.refused)
    return {
        "rps": round(len(ok) / took, 1),
        "requests": len(ok),
        **{f"p{share}": _at(ok, share) for share in (50, 90, 99)},
        "mean": 1e3 * sum(ok) / max(1, len(ok)),
        "refused": len(refused),
        "refused_p50": _at(refused, 50),
        "refused_p99": _at(refused, 99),
        "broken": load.broken,
        "late": load.late,
        "unsent": load.unsent,
        "hanging": len(hanging),
        "status": int(next(iter(load.statuses), 0)),
        "next": load.next,
        "classes": [
            {"requests": len(one), "p50": _at(sorted(one), 50), "p99": _at(sorted(one), 99)} for one in load.classes
        ],
        "statuses": dict(load.statuses),
    }


def _at(values: list[float], percent: int) -> float:
    """Return a percentile in milliseconds."""
    return round(1e3 * values[min(len(values) - 1, len(values) * percent // 100)], 3) if values else 0.0


def _read(path: Path) -> list[tuple[int, bytes]]:
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        (word,) = struct.unpack_from("<I", data, at)
        size = word & 0xFFFFFF
        found.append(((word >> 24) % CLASSES, data[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def main() -> None:
    """Read the words of the command line as loadgen.c does."""
    words = sys.argv[1:]
    if not 5 <= len(words) <= 7:
        print("usage: loadgen HOST PORT CONNECTIONS SECONDS REQUESTS [FIRST [RATE]]", file=sys.stderr)
        raise SystemExit(USAGE)
    load = Load(_read(Path(words[4])), int(words[5]) if len(words) > 5 else 0)
    rate = float(words[6]) if len(words) > 6 else 0.0
    print(json.dumps(asyncio.run(run(words[0], int(words[1]), int(words[2]), float(words[3]), load, rate))))


if __name__ == "__main__":
    main()
