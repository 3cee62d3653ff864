"""How fast one gateway settles: full batches from the ledger on SQLite to confirmed events on a real EVM node.

Run as `python -m benchmarks.settlement`. Each batch is 4,096 receipts of several channels and payees; writing the
ledger before it is not timed. Targets: at most 1 s to build and submit a batch, and 10,000 receipts a second.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.report import machine
from market.adapters.settlement_chain import EscrowSettlementChain, RegistryStanding
from market.settlement.plan import MAX_RECEIPTS
from market.settlement.settle import Rhythm, Settler
from tests.support.chain import Chain, running_anvil
from tests.support.settling import Gateway

PRICE = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--channels", type=int, default=64, help="payers' channels in each batch")
    parser.add_argument("--payees", type=int, default=16, help="operators in each batch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-settle-") as folder, running_anvil(Path(folder)) as url:
        chain = Chain(url)
        chain.list_model()
        for number in range(options.payees):
            chain.register_worker(f"worker{number}", f"operator{number}")
        gateway = Gateway(chain, folder)
        try:
            _measure(chain, gateway, options)
        finally:
            gateway.close()


def _measure(chain: Chain, gateway: Gateway, options: argparse.Namespace) -> None:
    share = MAX_RECEIPTS // options.channels + 1
    deposit = PRICE * share * (options.batches + 1)
    channels = [chain.deposit(deposit, payer=f"payer{number}") for number in range(options.channels)]
    gateway.index()
    spent = [0] * len(channels)
    rows: list[dict[str, float]] = []
    for batch in range(options.batches + 1):
        charges = []
        for number in range(MAX_RECEIPTS):
            place = number % len(channels)
            spent[place] += PRICE
            name = f"{number % options.payees}"
            charges.append(
                chain.charge(
                    channels[place],
                    PRICE,
                    spent[place],
                    ceiling=deposit,
                    worker=f"worker{name}",
                    operator=f"operator{name}",
                )
            )
        started = time.perf_counter()
        gateway.record(*charges)
        recorded = time.perf_counter() - started
        row = _settle(gateway)
        if batch:  # the first one warms up
            rows.append(row)
            print(
                f"batch {batch}: build {row['build']:.3f} s, submit {row['submit']:.3f} s, "
                f"confirmed and indexed after {row['whole']:.3f} s; {MAX_RECEIPTS / row['whole']:.0f} receipts/s; "
                f"gas {row['gas'] / MAX_RECEIPTS:.0f} a receipt (ledger: {MAX_RECEIPTS / recorded:.0f} charges/s)",
                flush=True,
            )
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    print(
        f"\n{machine()}\n{options.channels} channels, {options.payees} operators, {options.batches} batches of "
        f"{MAX_RECEIPTS}, medians: build and submit {middle['build'] + middle['submit']:.2f} s (reach: 1 s), "
        f"{MAX_RECEIPTS / (middle['build'] + middle['submit']):.0f} receipts/s by this process, "
        f"{MAX_RECEIPTS / middle['whole']:.0f} receipts/s with the node and the indexer (reach: 10,000)"
    )


class Stamped(EscrowSettlementChain):
    """The escrow; notes when a batch is sent."""

    sent_at = 0.0
    took = 0.0

    def send(self, epoch, call_data):
        started = time.perf_counter()
        found = super().send(epoch, call_data)
        if not self.sent_at:
            self.sent_at, self.took = started, time.perf_counter() - started
        return found


def _settle(gateway: Gateway) -> dict[str, float]:
    """Settle one batch; returns seconds to build it, to submit it, and until its events are folded."""
    stamped = Stamped(gateway.chain.escrow, gateway.transactor)
    gateway.settler = Settler(
        gateway=gateway.address,
        book=gateway.book,
        chain=stamped,
        standing=RegistryStanding(gateway.view, gateway.address),
        rhythm=Rhythm(3_600, 10**12),
    )
    began = time.perf_counter()
    done = gateway.settle()
    ended = time.perf_counter()
    assert done is not None
    assert done.receipt_count == MAX_RECEIPTS
    return {
        "build": stamped.sent_at - began,
        "submit": stamped.took,
        "whole": ended - began,
        "gas": float(done.gas_used or 0),
    }


if __name__ == "__main__":
    main()
