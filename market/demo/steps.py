"""The eight steps of the demonstration, each doing one thing for real and reporting it as data.

Decides what is shown, not how: `market.commands.local` prints it. Nothing here is simulated.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.money import ATOMIC_PER_TOKEN, format_amount
from market.demo import minilm
from market.demo.network import ROYALTY_PPM, STAKE, UNIT_PRICE, LocalMarket
from market.sdk.client import Market
from market.sdk.exchange import Outcome
from market.sdk.papers import PaperStore, SignedReceipt
from market.sdk.verify import Verdict, verify_receipt

DEPOSIT = 5 * ATOMIC_PER_TOKEN
SETTLE_TIMEOUT_SECONDS = 40.0
REQUESTS: tuple[tuple[str, ...], ...] = (
    ("A man is eating food.", "A man is eating a piece of bread."),
    ("A monkey is playing drums.", "Someone in a gorilla costume is playing a set of drums."),
    ("A cheetah is running behind its prey.", "The stock market fell sharply on Tuesday."),
    ("How do I reset my password?", "I forgot my login credentials.", "The recipe needs two eggs."),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step: its number, what was done, and the facts worth showing."""

    number: int
    title: str
    facts: dict[str, Any]
    seconds: float


@dataclass(slots=True)
class Demonstration:
    """Runs the steps on a local market; `report` collects what `--json` prints."""

    local: LocalMarket
    papers: PaperStore
    report: dict[str, Any] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    vectors: list[Any] = field(default_factory=list)

    TITLES = (
        "start Redis, an EVM node and a database",
        "deploy the contracts, mint test dollars",
        "list a model: hash, price, royalty",
        "stake and register a worker",
        "start gateway and worker",
        "pay per request over HTTP",
        "settle everything in one transaction",
        "verify the receipts from the chain alone",
    )

    def run(self) -> Iterator[tuple[int, str] | Step]:
        """Yield each step's number and title before it begins and its result after it."""
        actions = (
            *(self._services, self._deploy, self._list, self._register),
            *(self._start, self._infer, self._settle, self._verify),
        )
        for number, (title, action) in enumerate(zip(self.TITLES, actions, strict=True), start=1):
            yield number, title
            started = time.monotonic()
            facts = action()
            step = Step(number, title, facts, round(time.monotonic() - started, 2))
            self.report.setdefault("steps", []).append(
                {"number": number, "title": title, "seconds": step.seconds, **facts}
            )
            yield step

    def _services(self) -> dict[str, Any]:
        self.local.start_services()
        return {
            "redis": self.local.redis_url,
            "chain": self.local.rpc_url,
            "database": self.local.database_url.partition("://")[0],
        }

    def _deploy(self) -> dict[str, Any]:
        self.local.deploy()
        contracts = {name: checksum(address) for name, address in self.local.chain.contracts().items()}
        balance = self.local.chain.balance(self.local.accounts["client"].address)
        return {"contracts": contracts, "clientTokens": format_amount(balance)}

    def _list(self) -> dict[str, Any]:
        self.local.list_model()
        manifest = self.local.manifest
        return {
            "model": minilm.NAME,
            "modelId": hex0x(manifest.model_id),
            "bytes": manifest.files[manifest.entry].size,
            "unit": manifest.unit.name.lower(),
            "royaltyPpm": ROYALTY_PPM,
            "owner": checksum(self.local.accounts["owner"].address),
        }

    def _register(self) -> dict[str, Any]:
        self.local.register_worker()
        return {
            "operator": checksum(self.local.accounts["operator"].address),
            "worker": checksum(self.local.accounts["worker"].address),
            "stake": format_amount(STAKE),
        }

    def _start(self) -> dict[str, Any]:
        self.local.start_programs()
        self.local.save_network_file()
        return {
            "gateway": checksum(self.local.accounts["gateway"].address),
            "url": self.local.gateway_url,
            "unitPrice": format_amount(UNIT_PRICE),
        }

    def _infer(self) -> dict[str, Any]:
        wallet, chain = self.local.wallet("client"), self.local.chain
        tokenizer = minilm.load_tokenizer()
        with Market(self.local.gateway_url, wallet, papers=self.papers) as market:
            channel = chain.open_channel(wallet, self.local.accounts["gateway"].address, DEPOSIT)
            market.use_channel(channel, chain.domain)
            market.wait_for_channel(channel.digest(chain.domain), deposited=DEPOSIT)
            rows = []
            for sentences in REQUESTS:
                tensors = minilm.tokenize(tokenizer, sentences)
                started = time.perf_counter()
                outcome = market.infer(minilm.NAME, tensors)
                milliseconds = (time.perf_counter() - started) * 1_000
                self.outcomes.append(outcome)
                vectors = minilm.pool(outcome.outputs["last_hidden_state"], tensors["attention_mask"])
                rows.append(
                    {
                        "sentences": list(sentences),
                        "similarities": _pairs(vectors),
                        "paid": format_amount(outcome.charged),
                        "milliseconds": round(milliseconds, 1),
                        "requestId": hex0x(outcome.paper.receipt.request_id),
                    }
                )
        return {
            "channel": hex0x(channel.digest(chain.domain)),
            "deposit": format_amount(DEPOSIT),
            "requests": rows,
            "paid": format_amount(self.outcomes[-1].cumulative),
        }

    def _settle(self) -> dict[str, Any]:
        settled = self.settled_papers()
        transactions = sorted({p.settlement.transaction or "" for p in settled if p.settlement is not None})
        gas = sum(self.local.chain.gas_used(bytes.fromhex(hash_.removeprefix("0x"))) for hash_ in transactions if hash_)
        first = settled[0].settlement
        assert first is not None
        return {
            "epochs": sorted({p.settlement.epoch for p in settled if p.settlement is not None}),
            "transactions": transactions,
            "receipts": len(settled),
            "gas": gas,
            "gasPerReceipt": gas // len(settled),
            "root": hex0x(first.root),
        }

    def settled_papers(self) -> list[SignedReceipt]:
        """Wait until every receipt of this run is settled and its proof kept.

        Raises:
            NotSettled: the gateway did not settle in time.
        """
        with Market(self.local.gateway_url, papers=self.papers) as market:
            return [
                market.wait_for_settlement(outcome.paper, timeout_seconds=SETTLE_TIMEOUT_SECONDS)
                for outcome in self.outcomes
            ]

    def _verify(self) -> dict[str, Any]:
        chain = self.local.chain
        kept = {outcome.paper.receipt.request_id for outcome in self.outcomes}
        channel = next(iter(self.papers.channels())).channel
        papers = [paper for paper in self.papers.receipts() if paper.receipt.request_id in kept]
        verdicts = [verify_receipt(paper, chain, channel=channel) for paper in papers]
        price = sum(paper.receipt.price for paper in papers)
        worker = sum(paper.receipt.worker_amount for paper in papers)
        owner = sum(paper.receipt.owner_amount for paper in papers)
        gateway = self.local.accounts["gateway"].address
        credited = {role: chain.credited(gateway, self.local.accounts[role].address) for role in ("operator", "owner")}
        return {
            "verified": sum(verdict.valid for verdict in verdicts),
            "of": len(verdicts),
            "checks": [check.name for check in verdicts[0].checks],
            "failed": _failed(verdicts),
            "paid": format_amount(price),
            "earned": {
                "operator": format_amount(worker),
                "owner": format_amount(owner),
                "gateway": format_amount(price - worker - owner),
            },
            "creditedOnChain": {role: format_amount(amount) for role, amount in credited.items()},
            "chainAgrees": credited == {"operator": worker, "owner": owner},
        }


def _pairs(vectors: Any) -> list[float]:
    """Return the cosine of the first sentence with each of the others."""
    return [round(float(np.dot(vectors[0], other)), 3) for other in vectors[1:]]


def _failed(verdicts: Sequence[Verdict]) -> list[str]:
    return sorted({check.name for verdict in verdicts for check in verdict.checks if not check.holds})
