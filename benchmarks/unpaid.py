"""The market's own programs with all taken out that makes a request paid: what is left is what serving alone costs.

Run as `python benchmarks/unpaid.py market serve` or `… worker run`, by `OwnMarket(unpaid=True)`. Taken out: digests and
signatures of receipts on both sides, the ledger's commits, the worker's journal, countersignatures and credit notes.
What stays is what any server has: HTTP, the queue, batching, the model. For comparison only; nobody is charged.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

NO_SIGNATURE = bytes(64) + b"\x1b"


def take_out() -> None:
    """Replace the paid parts, before anything that uses them is imported."""
    receipts: Any = importlib.import_module("contracts.protocol.receipts")
    typed: Any = importlib.import_module("contracts.protocol.typed_data")
    errors: Any = importlib.import_module("contracts.protocol.errors")

    def no_tree(*_: object) -> None:
        raise errors.SignatureError("unpaid.")

    receipts.sign_receipts = lambda _key, digests, _domain: [NO_SIGNATURE] * len(digests)
    receipts.is_receipt_signed_by = lambda *_: True
    receipts.tree_signed_by = no_tree
    typed.Receipt.digest = lambda *_: bytes(32)


def take_out_of_gateway() -> None:
    """Charge nothing and keep no papers."""
    ledger: Any = importlib.import_module("market.adapters.database.ledger")
    papers: Any = importlib.import_module("market.inference.papers")
    model: Any = importlib.import_module("market.payments.model")

    def record_all(_self: object, charges: Sequence[Any], done: Callable[[Sequence[Any]], None]) -> None:
        outcomes = [model.Recorded(charge.receipt.cumulative, 0) for charge in charges]
        asyncio.get_running_loop().call_soon(done, outcomes)

    ledger.DatabaseLedger.record_all = record_all
    papers.PapersDesk.add = lambda *_: None


def take_out_of_worker() -> None:
    """Keep no receipts."""
    papers: Any = importlib.import_module("workers.papers")
    papers.Journal.keep = lambda *_: []


def main() -> None:
    """Run one of the programs."""
    name, *arguments = sys.argv[1:]
    take_out()
    {"market": take_out_of_gateway, "worker": take_out_of_worker}[name]()
    sys.argv = [name, *arguments]
    importlib.import_module({"market": "market.cli", "worker": "workers.cli"}[name]).main()


if __name__ == "__main__":
    main()
