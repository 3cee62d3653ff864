"""Flame graphs of the paid path: where gateway and worker spend their time under 64 connections.

Run as `python -m benchmarks.flame`; writes docs/performance-flame.svg and docs/performance-flame-worker.svg, by
py-spy, which is installed beside the peers if it is not there. Only running threads are sampled: no waiting is shown.
"""

import argparse
import re
import subprocess
import time
from pathlib import Path

from benchmarks.models import build
from benchmarks.servers import OwnMarket, Peer, build_load_generator, install, load, scratch_folder

PY_SPY = Peer("py-spy", ("py-spy",), "", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--workload", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    folder = install(PY_SPY)
    if folder is None:
        raise SystemExit("py-spy could not be installed")
    scratch = scratch_folder()
    program = build_load_generator(scratch)
    workloads = build(scratch / "packages")
    options.out.mkdir(parents=True, exist_ok=True)
    with OwnMarket(list(workloads.values()), scratch) as own:
        server = own.paid("flame", workloads[options.workload], vouchers=1)
        pids = {child.name: child.pid for child in own.local.supervisor.children}
        load(program, server, options.connections, 2)
        for name, suffix in (("gateway", ""), ("worker", "-worker")):
            file = options.out / f"performance-flame{suffix}.svg"
            command = [folder / "bin" / "py-spy", "record", "--pid", pids[name], "--duration", options.seconds]
            command += ["--rate", 200, "--output", file]
            spy = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
            time.sleep(0.5)
            cell = load(program, server, options.connections, options.seconds)
            spy.wait()
            # Where this machine keeps its files says nothing to a reader.
            drawn = re.sub(r"\((?:/[^ ():]+)?/(?:site-packages|lib/python[\d.]+)/", "(", file.read_text())
            title = f">{name}, {options.connections} connections<"
            file.write_text(re.sub(r">[^<>]*/py-spy record [^<>]*<", title, drawn))
            print(f"{file}: {cell['rps']:.0f} requests/s at {options.connections} connections")


if __name__ == "__main__":
    main()
