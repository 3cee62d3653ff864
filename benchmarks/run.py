"""`make bench`: the market, paid and receipted, beside its peers, unpaid, in interleaved rounds on this machine.

Everything is started once; what is not measured is stopped. A round measures every server at every number of
connections, so that whatever disturbs the machine disturbs all of them; what counts are ratios of medians.
Writes docs/performance.md and docs/performance.svg.
"""

import argparse
import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

from benchmarks import report
from benchmarks.models import Workload, build
from benchmarks.servers import (
    PEERS,
    OwnMarket,
    Running,
    build_load_generator,
    load,
    peer_server,
    raw_loop,
    scratch_folder,
)

OURS = SESSION, EACH, UNPAID = report.OURS
CONNECTIONS = {"tiny": (1, 16, 64), "embed": (1, 16, 64)}
EMBED_PEERS = ("triton", "mosec", "kserve")
WARM_SECONDS = 0.7
# what is in flight when a cell ends is not counted, which matters where an answer takes long
LONGER = {"tiny": 1, "embed": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--peers", default=",".join(peer.name for peer in PEERS))
    parser.add_argument("--workloads", default="tiny,embed")
    parser.add_argument("--vouchers", type=int, default=120_000, help="vouchers signed ahead for one-a-request")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    scratch = scratch_folder()
    print(f"logs and files: {scratch}", flush=True)
    program = build_load_generator(scratch)
    workloads = build(scratch / "packages")
    wanted = [name for name in options.workloads.split(",") if name]
    results: dict[str, report.Cells] = {}
    raw: dict[str, list[dict[str, float]]] = {}
    with OwnMarket(list(workloads.values()), scratch) as own, contextlib.ExitStack() as unpaid:
        facts = {"memory": report.memory_of({c.name: c.pid for c in own.local.supervisor.children})}
        for name in wanted:
            workload = workloads[name]
            servers = [own.paid(f"{SESSION} {name}", workload, vouchers=1)]
            servers[0].name = SESSION
            if name == "tiny":
                servers.append(own.paid(EACH, workload, vouchers=options.vouchers))
                market = unpaid.enter_context(OwnMarket(list(workloads.values()), scratch, unpaid=True))
                servers.append(market.paid(UNPAID, workload, vouchers=1))
                servers[-1].pause()
            servers[0].pause()
            with contextlib.ExitStack() as stack:
                for peer in PEERS:
                    if peer.name not in options.peers.split(",") or (name == "embed" and peer.name not in EMBED_PEERS):
                        continue
                    running = stack.enter_context(peer_server(peer, workload, scratch))
                    if running is not None:
                        running.pause()
                        servers.append(running)
                results[name], raw[name] = _rounds(workload, servers, program, options)
            unpaid.close()
            servers[0].wake()
            own.wait_awake(workload)
    options.out.mkdir(exist_ok=True)
    (scratch / "results.json").write_text(json.dumps({"results": results, "raw": raw}, indent=1))
    report.write(options.out, results, raw, facts, rounds=options.rounds, seconds=options.seconds)
    print(f"wrote {options.out / 'performance.md'}")


def _rounds(workload: Workload, servers: list[Running], program: Path, options):
    cells: report.Cells = {}
    raw: list[dict[str, float]] = []
    for number in range(options.rounds):
        print(f"# {workload.name}, round {number + 1}, load {os.getloadavg()[0]:.1f}", flush=True)
        if workload.name == "embed":
            raw.append(raw_loop(workload, min(2.0, options.seconds)))
            print(f"  onnxruntime alone: {json.dumps({k: round(v) for k, v in raw[-1].items()})}", flush=True)
        # the order turns, so that nobody is always behind the same neighbour
        turn = number % len(servers)
        for server in servers[turn:] + servers[:turn]:
            try:
                _measure(workload, server, program, options, cells)
            except subprocess.CalledProcessError as error:
                if server.name in OURS:
                    raise
                print(f"  {server.name} is gone, its earlier rounds count: {error.stderr.strip()}", flush=True)
                servers.remove(server)
            server.pause()
            time.sleep(0.1)
    return cells, raw


def _measure(workload: Workload, server: Running, program: Path, options, cells: report.Cells) -> None:
    server.wake()
    if server.market is not None:
        server.market.wait_awake(workload)
    load(program, server, 16, WARM_SECONDS)
    for connections in CONNECTIONS[workload.name]:
        cell = load(program, server, connections, options.seconds * LONGER[workload.name])
        cells.setdefault(server.name, {}).setdefault(str(connections), []).append(cell)
        print(
            f"  {server.name:28s} c={connections:3d} {cell['rps']:9.1f}/s  p50 {cell['p50']:8.2f}  "
            f"p99 {cell['p99']:8.2f} ms  refused {cell['refused']} broken {cell['broken']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
