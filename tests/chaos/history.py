"""Holds what the clients saw against the gateway's books and the chain; every sentence of the promise is one check."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import sqlalchemy as sa

from market.adapters.database import tables_ledger as t
from market.adapters.database.engine import open_engine, reading
from market.sdk.chain import Chain
from market.sdk.verify import verify_receipt
from tests.chaos.load import Client

VERIFIED_PER_CLIENT = 10


@dataclass
class Findings:
    counts: Counter = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def must(self, holds: bool, sentence: str) -> None:
        self.counts["checks"] += 1
        if not holds:
            self.violations.append(sentence)


def books(database_url: str):
    engine = open_engine(database_url)
    try:
        with reading(engine) as connection:
            receipts = connection.execute(sa.select(t.receipts).order_by(t.receipts.c.position)).all()
            accounts = connection.execute(sa.select(t.channel_accounts)).all()
            totals = connection.execute(sa.select(t.payee_totals)).all()
    finally:
        engine.dispose()
    return receipts, accounts, totals


def is_settled(database_url: str, chain: Chain) -> bool:
    receipts, accounts, totals = books(database_url)
    return (
        all(row.epoch is not None for row in receipts)
        and all(chain.channel_settled(bytes(row.channel_id)) == int(row.charged) for row in accounts)
        and all(chain.credited(bytes(row.gateway), bytes(row.payee)) == int(row.earned) for row in totals)
    )


def check(clients: list[Client], database_url: str, chain: Chain) -> Findings:
    found = Findings()
    receipts, accounts, totals = books(database_url)
    by_request = {(bytes(row.channel_id), bytes(row.request_id)): row for row in receipts}
    seen = {(one.channel_id, one.request_id): one for client in clients for one in client.history}
    found.counts.update(requests=len(seen), receipts=len(receipts))
    found.counts["acknowledged"] = sum(one.acknowledged for one in seen.values())

    for client in clients:
        for fault in client.wrong:
            found.must(False, f"a client saw a broken answer: {fault}")
    for key, one in seen.items():
        row = by_request.get(key)
        if one.acknowledged:
            found.must(row is not None, f"acknowledged request {one.request_id.hex()[:8]} has no receipt in the books")
            if row is not None:
                found.must(
                    bytes(row.digest) == one.digest, f"{one.request_id.hex()[:8]}: another receipt than the client's"
                )
                found.must(
                    int(row.price) == one.charged,
                    f"{one.request_id.hex()[:8]}: charged {row.price}, told {one.charged}",
                )
        elif row is not None:
            found.counts["charged, not acknowledged"] += 1
            found.must(one.may_be_charged, f"{one.request_id.hex()[:8]} was refused and charged: {one.attempts}")
    for key in by_request:
        found.must(key in seen, f"a charge that nobody asked for: {key[1].hex()[:8]}")

    prices: dict[bytes, int] = defaultdict(int)
    last: dict[bytes, int] = defaultdict(int)
    payees: dict[tuple[bytes, bytes], int] = defaultdict(int)
    for row in receipts:
        channel = bytes(row.channel_id)
        prices[channel] += int(row.price)
        last[channel] = max(last[channel], int(row.cumulative))
        payees[bytes(row.gateway), bytes(row.worker_payee)] += int(row.worker_amount)
        payees[bytes(row.gateway), bytes(row.owner_payee)] += int(row.owner_amount)
        found.must(row.epoch is not None, f"receipt {row.position} was never settled")
    for row in accounts:
        channel = bytes(row.channel_id)
        found.must(
            int(row.charged) == prices[channel],
            f"a channel's charges {row.charged} are not its receipts {prices[channel]}",
        )
        found.must(last[channel] <= int(row.charged) <= int(row.voucher_amount), "a charge above the voucher")
        settled = chain.channel_settled(channel)
        found.must(settled == int(row.charged), f"a channel was charged {row.charged}, {settled} on chain")
    found.must(set(prices) == {bytes(row.channel_id) for row in accounts}, "a receipt without an account")
    for row in totals:
        key = (bytes(row.gateway), bytes(row.payee))
        found.must(int(row.earned) == payees[key], f"a payee's total {row.earned} is not its receipts' {payees[key]}")
        credited = chain.credited(*key)
        found.must(credited == int(row.earned), f"a payee earned {row.earned}, {credited} is credited on chain")
    found.must(
        {key for key, amount in payees.items() if amount} <= {(bytes(r.gateway), bytes(r.payee)) for r in totals},
        "a payee is missing",
    )
    found.counts["charged"] = sum(prices.values())
    found.counts["credited"] = sum(payees.values())

    for client in clients:
        papers = list(client.papers.receipts())
        step = max(1, len(papers) // VERIFIED_PER_CLIENT)
        for paper in papers[::step]:
            verdict = verify_receipt(
                client.market.wait_for_settlement(paper, timeout_seconds=30), chain, channel=client.channel
            )
            found.counts["verified from the chain"] += 1
            found.must(verdict.valid, f"a receipt does not hold: {[c.name for c in verdict.checks if not c.holds]}")
    return found
