"""How the market's figures move with workers, channels and models.

Run as `python -m benchmarks.scaling [--parts workers,channels,models]`. One market at a time; within a part the sizes
are measured in turns where they can be, else one after another, and what counts are the ratios to the first size. Load
generator, gateway, Valkey, node and workers share the machine: two workers need two free cores to be twice as fast.
"""

import argparse
import contextlib
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from benchmarks.models import Workload, build
from benchmarks.report import machine, memory_of
from benchmarks.servers import (
    OwnMarket,
    Running,
    body_of,
    build_load_generator,
    load,
    raw_loop,
    request_bytes,
    scratch_folder,
    write_requests,
)
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.money import ATOMIC_PER_TOKEN
from contracts.protocol.typed_data import Channel
from market.demo.network import MAX_PRICE, MIN_PRICE, STAKE, program
from market.devnet import keys

INDEX_SECONDS = 120.0
WARM_SECONDS = 30.0
ALONE_BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="workers,channels,models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--channels", default="10,100,1000")
    parser.add_argument("--models", default="1,100,1000")
    options = parser.parse_args()
    scratch = scratch_folder()
    program_file = build_load_generator(scratch)
    workloads = build(scratch / "packages")
    print(machine(), flush=True)
    for part in options.parts.split(","):
        with OwnMarket(list(workloads.values()), scratch / part) as own:
            {"workers": _workers, "channels": _channels, "models": _models}[part](own, workloads, program_file, options)


def _cell(program_file, server: Running, connections: int, seconds: float) -> dict[str, float]:
    load(program_file, server, connections, 0.7)
    return load(program_file, server, connections, seconds)


def _gateway_memory(own: OwnMarket) -> float:
    return memory_of({child.name: child.pid for child in own.local.supervisor.children})["gateway"]


# --- workers -----------------------------------------------------------------------------------------------------


def _workers(own: OwnMarket, workloads, program_file, options) -> None:
    """One worker against several on the same model: in the rounds of one, each request names it.

    Stopping the others instead would be taken for their failure, for which they are not asked for a minute.
    """
    for number in range(2, options.workers + 1):
        _start_worker(own, number)
    first = checksum(own.local.accounts["worker"].address)
    _wait_for_workers(own, options.workers)
    alone: dict[int, list[float]] = {1: [], options.workers: []}
    for name, connections in (("embed", 16), ("embed", 64), ("tiny", 64)):
        servers = {
            1: own.paid(f"one {name} {connections}", workloads[name], vouchers=1, headers={"Market-Worker": first}),
            options.workers: own.paid(f"all {name} {connections}", workloads[name], vouchers=1),
        }
        found: dict[int, list[float]] = {count: [] for count in servers}
        for _ in range(options.rounds):
            for count, server in servers.items():
                found[count].append(_cell(program_file, server, connections, options.seconds)["rps"])
            if (name, connections) == ("embed", 16):
                for count, rates in alone.items():
                    rates.append(_alone(workloads[name], count, options.seconds))
        one, many = (statistics.median(rates) for rates in found.values())
        print(
            f"workers {name} c={connections}: 1 worker {one:.0f}/s, {options.workers} workers {many:.0f}/s, "
            f"ratio {many / one:.2f}",
            flush=True,
        )

    one, many = (statistics.median(rates) for rates in alone.values())
    print(
        f"onnxruntime alone, embed, batches of {ALONE_BATCH}: 1 process {one:.0f}/s, {options.workers} processes "
        f"{many:.0f}/s, ratio {many / one:.2f}: what the machine can give",
        flush=True,
    )


def _alone(workload: Workload, count: int, seconds: float) -> float:
    """Return rows a second of so many processes at once that do nothing but run the model."""
    with ThreadPoolExecutor(count) as pool:
        rates = list(pool.map(lambda _: raw_loop(workload, seconds), range(count)))
    return sum(rate[str(ALONE_BATCH)] for rate in rates)


def _wait_for_workers(own: OwnMarket, count: int) -> None:
    deadline = time.monotonic() + INDEX_SECONDS
    while time.monotonic() < deadline:
        found = own.market.get("/market/v1/workers")
        if sum(bool(worker["live"]) for worker in found) >= count:
            return
        time.sleep(0.5)
    raise SystemExit("the workers did not come up")


def _start_worker(own: OwnMarket, number: int):
    local = own.local
    account = keys.load_or_create(local.data_dir, f"worker{number}")
    operator = local.wallet("operator")
    local.chain.mint(local.wallet("deployer"), operator.address, STAKE)
    local.chain.register_worker(operator, account.key, stake=STAKE, region="local", hardware="cpu", endpoint="")
    environment = {
        **local.worker_environment(),
        "WORKER_KEYSTORE": str(account.keystore),
        "WORKER_MODEL_DIR": str(local.data_dir / f"models{number}"),
        "WORKER_STATE_DIR": str(local.data_dir / f"worker{number}"),
        "WORKER_METRICS_PORT": "0",
    }
    return local.supervisor.start(f"worker{number}", program("worker", "run"), environment)


# --- channels ----------------------------------------------------------------------------------------------------


def _channels(own: OwnMarket, workloads: dict[str, Workload], program_file, options) -> None:
    """More and more open channels, each used in turn; how the gateway's memory grows, once it has served at all."""
    opened: list[Channel] = []
    first: tuple[int, float] | None = None
    for count in (int(size) for size in options.channels.split(",")):
        opened += _open(own, count - len(opened))
        server = _server(own, workloads["tiny"], opened)
        # The first size also fills what is kept of the last requests, whoever pays.
        used = _cell(program_file, server, 64, max(options.seconds if first else WARM_SECONDS, count / 400))
        cells = [_cell(program_file, server, 64, options.seconds) for _ in range(options.rounds)]
        memory = _gateway_memory(own)
        first = first or (count, memory)
        more = count - first[0]
        growth = f", {(memory - first[1]) / more * 1_000:.2f} MB per 1,000 channels more" if more else ""
        print(
            f"channels {count}: {statistics.median(cell['rps'] for cell in cells):.0f}/s, "
            f"p50 {statistics.median(cell['p50'] for cell in cells):.1f} ms, refused {used['refused']:.0f}; gateway "
            f"{memory:.0f} MB{growth}",
            flush=True,
        )


def _open(own: OwnMarket, count: int) -> list[Channel]:
    local = own.local
    made = [
        local.chain.open_channel(own.wallet, local.accounts["gateway"].address, 10 * ATOMIC_PER_TOKEN)
        for _ in range(count)
    ]
    last = hex0x(made[-1].digest(local.chain.domain))
    deadline = time.monotonic() + INDEX_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            if int(own.market.get(f"/market/v1/channels/{last}")["deposited"]):
                return made
        time.sleep(0.2)
    raise RuntimeError("the gateway did not see the channels")


def _server(own: OwnMarket, workload: Workload, channels: list[Channel]) -> Running:
    """One session voucher for each channel; requests go round among them."""
    domain, amount = own.local.chain.domain, 10 * ATOMIC_PER_TOKEN
    requests = []
    for channel in channels:
        voucher = own.wallet.voucher_header(channel, amount, domain)
        body = body_of("oip", workload)
        requests.append(request_bytes(f"/v2/models/{workload.name}/infer", body, {"Market-Voucher": voucher}))
    file = write_requests(own.local.data_dir / f"{len(channels)}.bin", requests)
    return Running("channels", int(own.local.gateway_url.rpartition(":")[2]), file)


# --- models ------------------------------------------------------------------------------------------------------


def _models(own: OwnMarket, workloads: dict[str, Workload], program_file, options) -> None:
    """More and more listings on chain that nobody here serves, beside the one that is measured."""
    local = own.local
    listed = 0
    server = own.paid("models", workloads["tiny"], vouchers=1)
    for count in (int(size) for size in options.models.split(",")):
        for number in range(listed, count):
            stranger = SimpleNamespace(model_id=(number + 1).to_bytes(32, "big"), unit=local.manifest.unit)
            local.chain.list_model(
                local.wallet("owner"),
                stranger,
                name=f"stranger-{number}",
                min_price=MIN_PRICE,
                max_price=MAX_PRICE,
                royalty_ppm=0,
                uri="https://example.invalid/",
            )
        listed = max(listed, count)
        time.sleep(5)  # folded from the events
        cells = [_cell(program_file, server, 64, options.seconds) for _ in range(options.rounds)]
        print(
            f"models {count}: {statistics.median(cell['rps'] for cell in cells):.0f}/s, "
            f"p50 {statistics.median(cell['p50'] for cell in cells):.1f} ms; gateway {_gateway_memory(own):.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
