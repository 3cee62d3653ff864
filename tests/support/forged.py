"""An honest end of a chaos run in memory, for tests of its judge to forge."""

from dataclasses import replace

from tests.chaos.books import (
    Account,
    AuditBooks,
    Books,
    Key,
    ReceiptRow,
    X402Books,
    X402Channel,
    X402Credit,
    X402Payment,
)
from tests.chaos.history import House, Seen, check

GATEWAY, OPERATOR, OWNER, WORKER, AUDITOR = (name * 20 for name in (b"g", b"o", b"w", b"k", b"a"))
CHANNEL, OTHER, HOUSE, KEY = b"c" * 32, b"d" * 32, b"h" * 32, b"k" * 32
# Payers by x402, one with a channel and one with credit.
DEPOSITOR, BUYER, PAYER_CHANNEL, PURSE, DEPOSIT, PACK = b"p" * 20, b"q" * 20, b"x" * 32, 90_000, 50_000, 10_000
PRICE, WORKER_PART, OWNER_PART = 1_000, 850, 100
HOUSE_ACCOUNT, HOUSE_PURSE, HOUSE_DEPOSIT = b"u" * 20, 100_000, 9_000


class Chain:
    """What the escrow would say after these books were settled honestly."""

    def __init__(self, books):
        self.settled = {channel: account.charged for channel, account in books.accounts.items()}
        self.credits = dict(books.totals)
        self.x402 = {channel: (DEPOSIT, one.charged) for channel, one in books.x402.channels.items()}
        self.deposits = {HOUSE: HOUSE_DEPOSIT}
        self.claims_not_swept = 0
        self.tokens = {
            DEPOSITOR: PURSE - DEPOSIT,
            BUYER: PURSE - PACK,
            HOUSE_ACCOUNT: HOUSE_PURSE - HOUSE_DEPOSIT + sum(claimed for _, claimed in self.x402.values()) + PACK,
        }

    def channel_settled(self, channel_id):
        return self.settled.get(channel_id, 0)

    def credited(self, gateway, payee):
        return self.credits.get((gateway, payee), 0)

    def balance(self, account):
        return self.tokens[account]

    def deposited(self, channel_id):
        return self.deposits[channel_id]

    def x402_channel(self, channel_id):
        return self.x402[channel_id]

    def unswept(self, receiver):
        assert receiver == HOUSE_ACCOUNT
        return self.claims_not_swept


def row(number, channel=CHANNEL, **changes):
    made = ReceiptRow(
        channel_id=channel,
        request_id=bytes([number]) * 32,
        seq=number,
        digest=bytes([100 + number]) * 32,
        price=PRICE,
        worker_amount=WORKER_PART,
        owner_amount=OWNER_PART,
        cumulative=PRICE,
        gateway=GATEWAY,
        worker=WORKER,
        worker_payee=OPERATOR,
        owner_payee=OWNER,
        settled=True,
    )
    return replace(made, **changes)


class World:
    """Six requests acknowledged: one by an API key, one when asked again, two by x402; one refused; and an audit."""

    def __init__(self):
        rows = [row(1), row(2, cumulative=2 * PRICE), row(3, OTHER), row(4, cumulative=3 * PRICE)]
        rows += [row(11, HOUSE), row(12, HOUSE, cumulative=2 * PRICE)]
        self.history = [
            Seen(one.request_id, one.channel_id, PRICE, None, ["answered"], one.digest, PRICE) for one in rows
        ]
        self.history[2].key = KEY
        self.history[3].attempts = ["unknown:gateway-unreachable", "refused:503:no-capacity", "answered"]
        self.refused = Seen(b"r" * 32, CHANNEL, PRICE, None, ["refused:503:no-capacity"] * 2)
        self.history.append(self.refused)
        # Another operator's worker, which only audits.
        audit = row(13, HOUSE, cumulative=3 * PRICE, worker=AUDITOR, worker_payee=AUDITOR)
        journals = {WORKER: {(one.channel_id, one.request_id) for one in rows}, AUDITOR: {(HOUSE, audit.request_id)}}
        self.signed = {CHANNEL: 4 * PRICE, OTHER: 2 * PRICE, b"e" * 32: 0}
        self.books = Books(
            [*rows, audit],
            {
                CHANNEL: Account(3 * PRICE, 4 * PRICE),
                OTHER: Account(PRICE, 2 * PRICE),
                HOUSE: Account(3 * PRICE, 9 * PRICE),
            },
            {
                (GATEWAY, OPERATOR): 6 * WORKER_PART,
                (GATEWAY, AUDITOR): WORKER_PART,
                (GATEWAY, OWNER): 7 * OWNER_PART,
            },
            {KEY: Key(OTHER, PRICE, 2 * PRICE)},
            journals,
            X402Books(
                {
                    rows[4].request_id: X402Payment(DEPOSITOR, PAYER_CHANNEL, PRICE),
                    rows[5].request_id: X402Payment(BUYER, None, PRICE),
                    b"n" * 32: X402Payment(BUYER, None, None),
                },
                {PAYER_CHANNEL: X402Channel(DEPOSITOR, PRICE, PRICE)},
                {BUYER: X402Credit(PACK - PRICE, 0, PACK, 0)},
            ),
            AuditBooks({WORKER: 1}),
        )
        self.chain = Chain(self.books)

    def change(self, number, **changes):
        """Change one receipt of the books."""
        rows = list(self.books.receipts)
        rows[number] = replace(rows[number], **changes)
        self.books = replace(self.books, receipts=rows)

    def charge(self, more, **changes):
        """Write a receipt into books, account, totals, journal and chain as an honest gateway would."""
        books, channel = self.books, more.channel_id
        account = books.accounts[channel]
        self.books = replace(
            books,
            receipts=[*books.receipts, more],
            accounts={**books.accounts, channel: replace(account, charged=account.charged + more.price)},
            totals={
                **books.totals,
                (GATEWAY, OPERATOR): books.totals[GATEWAY, OPERATOR] + more.worker_amount,
                (GATEWAY, OWNER): books.totals[GATEWAY, OWNER] + more.owner_amount,
            },
            journals={**books.journals, WORKER: books.journals[WORKER] | {(channel, more.request_id)}},
            **changes,
        )
        self.chain = Chain(self.books)

    def violations(self):
        return self.check().violations

    def check(self):
        purses = {DEPOSITOR: PURSE, BUYER: PURSE}
        house = House(HOUSE, HOUSE_ACCOUNT, HOUSE_PURSE)
        return check(self.history, self.signed, self.books, self.chain, purses, house=house)
