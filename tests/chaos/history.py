"""Holds what the clients saw against the gateway's books, the workers' journals and the chain.

Every sentence of the promise is one check. Nothing here opens a file or a connection, so that forged histories can be
held against it (`tests/unit/chaos`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.books import Books, OnChain, ReceiptRow


@dataclass
class Seen:
    """One request as its client saw it: every attempt's outcome, and whether it was acknowledged in the end.

    `price` is what it must cost, where that is known beforehand; `key` the hash of the API key that paid.
    """

    request_id: bytes
    channel_id: bytes
    price: int | None = None
    key: bytes | None = None
    attempts: list[str] = field(default_factory=list)
    digest: bytes | None = None
    charged: int = 0

    @property
    def acknowledged(self) -> bool:
        return self.digest is not None

    @property
    def may_be_charged(self) -> bool:
        return self.acknowledged or any(a.startswith("unknown") for a in self.attempts)


@dataclass(frozen=True)
class House:
    """The gateway's own channel, which pays for its x402 clients' requests and its audits; what its account had at first.

    Claims, credit packs and refunds of x402 are that account's too.
    """

    channel_id: bytes
    account: bytes
    purse: int


@dataclass
class Findings:
    counts: Counter = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def must(self, holds: bool, sentence: str) -> None:
        self.counts["checks"] += 1
        if not holds:
            self.violations.append(sentence)


def check(
    history: Iterable[Seen],
    signed: Mapping[bytes, int],
    books: Books,
    chain: OnChain,
    purses: Mapping[bytes, int] | None = None,
    *,
    house: House,
) -> Findings:
    """Check it all; `signed` is the most that was ever signed for each of the clients' channels.

    `purses` is what each payer by x402 had at first.

    The requests of which a client knew nothing must have been asked again by now: what is charged and not acknowledged
    is then lost.
    """
    found = Findings()
    seen = {(one.channel_id, one.request_id): one for one in history}
    found.counts.update(requests=len(seen), receipts=len(books.receipts))
    found.counts["acknowledged"] = sum(one.acknowledged for one in seen.values())
    audits = [
        row
        for row in books.receipts
        if row.channel_id == house.channel_id
        and row.request_id not in books.x402.payments
        and (row.channel_id, row.request_id) not in seen
    ]
    _acknowledged(found, list(seen.values()), books)
    _receipts(found, seen, audits, books)
    _audits(found, audits, books)
    _channels(found, signed, books, chain)
    _payees(found, books, chain)
    _keys(found, list(seen.values()), books)
    _x402_payments(found, books, house.channel_id, {row.request_id for row in audits})
    _x402_money(found, books, chain, purses or {})
    _house(found, books, chain, house)
    return found


def _acknowledged(found: Findings, seen: Sequence[Seen], books: Books) -> None:
    """Acknowledged means charged once, as told; refused means not charged."""
    rows = {(row.channel_id, row.request_id): row for row in books.receipts}
    found.must(len(rows) == len(books.receipts), "a request has two receipts")
    for one in seen:
        row, name = rows.get((one.channel_id, one.request_id)), one.request_id.hex()[:8]
        if one.acknowledged:
            found.must(row is not None, f"acknowledged request {name} has no receipt in the books")
            if row is not None:
                found.must(row.digest == one.digest, f"{name}: another receipt than the client's")
                found.must(row.price == one.charged, f"{name}: charged {row.price}, told {one.charged}")
                found.must(one.price in (None, row.price), f"{name}: charged {row.price}, its price is {one.price}")
        elif row is not None:
            found.counts["charged, not acknowledged"] += 1
            refused = not one.may_be_charged
            found.must(False, f"{name} was {'refused' if refused else 'never answered'} and charged: {one.attempts}")


def _receipts(
    found: Findings, seen: Mapping[tuple[bytes, bytes], Seen], audits: Sequence[ReceiptRow], books: Books
) -> None:
    """Every charge was asked for, by a client or an audit, is settled, states no more than was charged, and is kept.

    The paper is its worker's.
    """
    numbers: dict[bytes, set[int]] = defaultdict(set)
    charged: dict[bytes, int] = defaultdict(int)
    asked = seen.keys() | {(row.channel_id, row.request_id) for row in audits}
    for row in books.receipts:
        found.must((row.channel_id, row.request_id) in asked, f"a charge that nobody asked for: {row.name}")
        found.must(row.settled, f"receipt {row.name} was never settled")
        found.must(row.worker_amount + row.owner_amount <= row.price, f"{row.name} pays out more than its price")
        found.must(row.seq not in numbers[row.channel_id], f"{row.name} has another's number {row.seq}")
        numbers[row.channel_id].add(row.seq)
        charged[row.channel_id] += row.price
        found.must(row.cumulative <= charged[row.channel_id], f"{row.name} states more than was charged")
        if row.worker in books.journals:
            kept = (row.channel_id, row.request_id) in books.journals[row.worker]
            found.must(kept, f"{row.name} is not in its worker's journal")
    found.counts["charged"] = sum(charged.values())


def _audits(found: Findings, audits: Sequence[ReceiptRow], books: Books) -> None:
    """An audit asks another operator's worker what a client was answered; of honest workers none differs from another.

    An audit that a crash cut short is lost, paid or not; one that was passed was paid.
    """
    clients: dict[tuple[bytes, bytes], list[ReceiptRow]] = defaultdict(list)
    for row in set(books.receipts) - set(audits):
        clients[row.asked].append(row)
    for row in audits:
        others = [one for one in clients[row.asked] if one.worker_payee != row.worker_payee]
        found.must(bool(others), f"{row.name} audits what no client was answered elsewhere")
        found.must(
            row.price in {one.price for one in others}, f"audit {row.name} costs {row.price}, no client paid that"
        )
    for asked, count in Counter(row.asked for row in audits).items():
        found.must(count <= len(clients[asked]), f"{count} audits of {len(clients[asked])} answers to one question")
    passed = sum(books.audits.passed.values())
    found.must(passed <= len(audits), f"{passed} audits were passed, {len(audits)} were paid")
    for sentence in books.audits.differed:
        found.must(False, f"an audit of honest workers found a difference, {sentence}")
    found.must(not books.audits.convicted, f"{len(books.audits.convicted)} honest workers are convicted")
    found.counts.update({"audits paid": len(audits), "audits passed": passed})
    found.counts["audits that found a difference"] = len(books.audits.differed)


def _channels(found: Findings, signed: Mapping[bytes, int], books: Books, chain: OnChain) -> None:
    """A channel's charge is the sum of its receipts, covered by its vouchers, and what the chain has taken."""
    prices: dict[bytes, int] = defaultdict(int)
    for row in books.receipts:
        prices[row.channel_id] += row.price
    for channel, account in books.accounts.items():
        total = prices[channel]
        found.must(account.charged == total, f"a channel's charges {account.charged} are not its receipts {total}")
        found.must(account.charged <= account.voucher_amount, "a charge above the voucher")
        if channel in signed:
            found.must(account.voucher_amount <= signed[channel], "a voucher that nobody signed")
        settled = chain.channel_settled(channel)
        found.must(settled == account.charged, f"a channel was charged {account.charged}, {settled} on chain")
    found.must(set(prices) == set(books.accounts), "a receipt without an account")
    for channel in set(signed) - set(books.accounts):
        found.must(chain.channel_settled(channel) == 0, "a channel without receipts was debited on chain")


def _payees(found: Findings, books: Books, chain: OnChain) -> None:
    """What receipts promise a payee is its total in the books and its credit on chain."""
    payees: dict[tuple[bytes, bytes], int] = defaultdict(int)
    for row in books.receipts:
        payees[row.gateway, row.worker_payee] += row.worker_amount
        payees[row.gateway, row.owner_payee] += row.owner_amount
    for key, earned in books.totals.items():
        found.must(earned == payees[key], f"a payee's total {earned} is not its receipts' {payees[key]}")
        credited = chain.credited(*key)
        found.must(credited == earned, f"a payee earned {earned}, {credited} is credited on chain")
    found.must({key for key, amount in payees.items() if amount} <= set(books.totals), "a payee is missing")
    found.counts["credited"] = sum(payees.values())


def _keys(found: Findings, seen: Sequence[Seen], books: Books) -> None:
    """An API key has spent what its requests cost, within its limit."""
    prices = {(row.channel_id, row.request_id): row.price for row in books.receipts}
    spent: dict[bytes, int] = defaultdict(int)
    for one in seen:
        if one.key is not None:
            spent[one.key] += prices.get((one.channel_id, one.request_id), 0)
    for name, key in books.keys.items():
        found.must(key.spent == spent[name], f"a key has spent {key.spent}, its requests cost {spent[name]}")
        found.must(key.spent <= key.limit, "a key above its limit")
    found.must({name for name, amount in spent.items() if amount} <= set(books.keys), "a key is missing")


def _x402_payments(found: Findings, books: Books, house: bytes, audits: set[bytes]) -> None:
    """What a payer by x402 was charged for a request is what the gateway paid onward for it, and neither without both."""
    payments = books.x402.payments
    paid_from = {row.channel_id for row in books.receipts if row.request_id in payments}
    found.must(paid_from <= {house}, "the gateway pays onward from two channels")
    onward = {
        row.request_id: row.price for row in books.receipts if row.channel_id == house and row.request_id not in audits
    }
    for request_id in payments.keys() | onward.keys():
        payment, name = payments.get(request_id), request_id.hex()[:8]
        charged = None if payment is None else payment.charged
        found.must(not (payment and payment.is_held), f"{name} still holds its payer's money")
        found.must(charged == onward.get(request_id), f"{name}: its payer {charged}, onward {onward.get(request_id)}")
    found.counts["charged by x402"] = sum(one.charged or 0 for one in payments.values())


def _x402_money(found: Findings, books: Books, chain: OnChain, purses: Mapping[bytes, int]) -> None:
    """Channels and credit are what their payments say, and on chain what their payers have parted with."""
    spent, parted = Counter[bytes](), Counter[bytes]()
    for one in books.x402.payments.values():
        spent[one.channel_id or one.payer] += one.charged or 0
    for channel_id, channel in books.x402.channels.items():
        held, claimed = chain.x402_channel(channel_id)
        parted[channel.payer] += held
        charged = channel.charged
        found.must(
            charged == spent[channel_id], f"an x402 channel's {charged} are not its payments' {spent[channel_id]}"
        )
        found.must(charged <= min(channel.signed, held), "an x402 channel is charged above its voucher or deposit")
        found.must(claimed == charged, f"an x402 channel was charged {charged}, {claimed} is claimed on chain")
    for payer, credit in books.x402.credits.items():
        parted[payer] += credit.bought - credit.refunded
        left = credit.bought - credit.refunded - spent[payer]
        found.must(credit.balance == left, f"a credit of {credit.balance}, {left} is what was bought and not used")
        found.must(credit.held == 0, "credit is held for nothing")
    for payer, purse in purses.items():
        gone = purse - chain.balance(payer)
        found.must(gone == parted[payer], f"a payer by x402 parted with {gone}, its books say {parted[payer]}")


def _house(found: Findings, books: Books, chain: OnChain, house: House) -> None:
    """What the house parted with is what its channel was given, less what x402 clients paid it."""
    claimed = sum(chain.x402_channel(channel_id)[1] for channel_id in books.x402.channels)
    sold = sum(credit.bought - credit.refunded for credit in books.x402.credits.values())
    came = claimed - chain.unswept(house.account) + sold
    gone, given = house.purse - chain.balance(house.account), chain.deposited(house.channel_id)
    found.must(gone == given - came, f"the house parted with {gone}, its channel was given {given}, it was paid {came}")
