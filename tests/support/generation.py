"""A text-generation and an embedding model in memory: workers that speak the protocol of generations and sign for it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from contracts.protocol.hashing import sha256
from contracts.protocol.manifest import FileEntry, Manifest, TensorSpec
from contracts.protocol.messages import Job, Result
from contracts.protocol.metering import output_tokens
from contracts.protocol.pricing import Unit
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import Tensor, content_hash, decode_tensors, encode_tensors
from market.inference.model import InferenceRequest
from market.registry.model import WorkerRecord
from market.verification.result_check import receipt_of
from tests.support.money import DOMAIN, World, voucher

PROMPT_TOKENS = 5
FILES = {"model.onnx": FileEntry(b"\x01" * 32, 10), "tokenizer.json": FileEntry(b"\x02" * 32, 10)}
WIDTH = 4


def chat_manifest(**options: Any) -> Manifest:
    return Manifest(
        task="text-generation",
        entry="model.onnx",
        files=FILES,
        inputs=(TensorSpec("prompt", "BYTES", (1,)),),
        outputs=(
            TensorSpec("text", "BYTES", (1,)),
            TensorSpec("finish_reason", "BYTES", (1,)),
            TensorSpec("usage", "INT64", (2,)),
        ),
        unit=Unit.TOKEN,
        options={"context_length": 2_000, "max_output_tokens": 20, **options},
    )


def embedding_manifest(**options: Any) -> Manifest:
    return Manifest(
        task="text-embedding",
        entry="model.onnx",
        files=FILES,
        inputs=(TensorSpec("text", "BYTES", (-1,)),),
        outputs=(TensorSpec("embedding", "FP32", (-1, WIDTH)), TensorSpec("tokens", "INT64", (-1,))),
        unit=Unit.TOKEN,
        batch_axis=0,
        max_batch=8,
        tokenizer="tokenizer.json",
        options={"max_tokens": 64, **options},
    )


def texts(name: str, *items: str | bytes) -> Tensor:
    return Tensor.from_numpy(name, np.array([i if isinstance(i, bytes) else i.encode() for i in items], dtype=object))


def words(count: int) -> str:
    return "".join(f"w{i} " for i in range(count))


def signed(job: Job, key: PrivateKey, tensors: list[Tensor], units: int, **changes: Any) -> Result:
    outputs = encode_tensors(tensors)
    result = Result(
        request_id=job.request_id,
        attempt=job.attempt,
        ok=True,
        outputs=outputs,
        output_hash=content_hash(outputs),
        served_at=int(time.time()),
        units=units,
    )
    result = replace(result, **changes)
    receipt = receipt_of(job, result, key.address, channel_id=job.channel.digest(DOMAIN))
    return replace(result, signature=key.sign_digest(receipt.digest(DOMAIN)))


@dataclass
class FakeGenerator:
    """Writes `w0 w1 w2 …`, one word a token, until `length` or the request's limit.

    `pause` seconds a token; `die_after` tokens it is silent; `fail_after` tokens it fails; `final_text` is another last
    word than what was streamed; `pieces` replaces the partial results, `script` the words.
    """

    key: PrivateKey
    price: int = 10
    length: int = 10
    pause: float = 0.0
    die_after: int | None = None
    fail: Result | None = None
    final_text: str | None = None
    pieces: Any = None
    script: list[str] | None = None
    served: int = 0
    stopped_at: int | None = None
    prompts: list[str] | None = None
    parameters: dict[str, Any] | None = None

    async def plain(self, job: Job) -> Result:
        return await self.stream(job, lambda _: None, lambda: None)

    def words(self, count: int) -> list[str]:
        return [f"w{i} " for i in range(count)] if self.script is None else self.script[:count]

    async def stream(self, job: Job, partial, stopped) -> Result:
        self.served += 1
        tensors, parameters = decode_tensors(job.inputs or b"")
        self.prompts = [*(self.prompts or []), tensors[0].to_numpy()[0].decode()]
        self.parameters = dict(parameters)
        if self.fail is not None:
            return replace(self.fail, request_id=job.request_id, attempt=job.attempt)
        limit = output_tokens(chat_manifest(), parameters)
        stops = json.loads(parameters.get("stop", "[]"))
        texts_wanted = parameters.get("n", 1)
        if texts_wanted > 1:
            return await self._several(job, partial, stopped, texts_wanted)
        count, reason, text = 0, "length", ""
        while count < limit:
            if count == (self.length if self.script is None else len(self.script)) or any(
                stop in text for stop in stops
            ):
                reason = "stop"
                break
            if self.die_after is not None and count >= self.die_after:
                await asyncio.sleep(3_600)
            await asyncio.sleep(self.pause)
            self.stopped_at = stopped()
            if self.stopped_at is not None:
                count, reason = min(count, self.stopped_at), "cancelled"
                text = "".join(self.words(count))
                break
            word = self.words(count + 1)[count]
            text += word
            count += 1
            details = [Tensor.from_numpy("tokens", np.array([1], np.int64)), texts("text", word)]
            piece = encode_tensors(details) if self.pieces is None else self.pieces(count)
            partial(Result(job.request_id, job.attempt, ok=True, outputs=piece, final=False))
        units = PROMPT_TOKENS + count
        outputs = [
            texts("text", text if self.final_text is None else self.final_text),
            texts("finish_reason", reason),
            Tensor.from_numpy("usage", np.array([PROMPT_TOKENS, count], np.int64)),
        ]
        if parameters.get("logprobs"):
            outputs.append(Tensor.from_numpy("logprobs", np.full(count, -0.5, np.float32)))
            most = parameters.get("top_logprobs", 0)
            if most:
                likeliest = [f"{'wxyz'[place]}{token} " for token in range(count) for place in range(most)]
                outputs.append(replace(texts("top_tokens", *likeliest), shape=(count, most)))
                chances = np.tile(-0.5 * np.arange(1, most + 1, dtype=np.float32), (count, 1))
                outputs.append(Tensor.from_numpy("top_logprobs", chances))
        return signed(job, self.key, outputs, units)

    async def _several(self, job: Job, partial, stopped, wanted: int) -> Result:
        """Write a word of each text in turn; the last text is a word shorter."""
        length = self.length if self.script is None else len(self.script)
        order = [index for _ in range(length) for index in range(wanted)]
        if self.script is None:
            order.pop()
        counts, sent = [0] * wanted, None
        for taken, index in enumerate(order):
            await asyncio.sleep(self.pause)
            sent = stopped()
            if sent is not None:
                order = order[: min(taken, sent)]
                break
            details = [
                Tensor.from_numpy("tokens", np.array([1], np.int64)),
                texts("text", self.words(counts[index] + 1)[-1]),
            ]
            details.append(Tensor.from_numpy("index", np.array([index], np.int64)))
            partial(Result(job.request_id, job.attempt, ok=True, outputs=encode_tensors(details), final=False))
            counts[index] += 1
        counts = [order.count(index) for index in range(wanted)]
        outputs = [
            texts("text", *("".join(self.words(count)) for count in counts)),
            texts("finish_reason", *(["stop" if sent is None else "cancelled"] * wanted)),
            Tensor.from_numpy("usage", np.array([PROMPT_TOKENS, *counts], np.int64)),
        ]
        _, parameters = decode_tensors(job.inputs or b"")
        if parameters.get("logprobs"):
            outputs.append(Tensor.from_numpy("logprobs", -np.arange(sum(counts), dtype=np.float32)))
        return signed(job, self.key, outputs, PROMPT_TOKENS + sum(counts))


@dataclass
class FakeEmbedder:
    """Gives each text's length as its vector's first number; one token a word."""

    key: PrivateKey
    price: int = 10
    served: int = 0
    fail: Result | None = None

    async def plain(self, job: Job) -> Result:
        self.served += 1
        if self.fail is not None:
            return replace(self.fail, request_id=job.request_id, attempt=job.attempt)
        tensors, _ = decode_tensors(job.inputs or b"")
        given = [text.decode() for text in tensors[0].to_numpy()]
        vectors = np.array([[len(text), 0.5, -1, 0] for text in given], np.float32)
        tokens = np.array([len(text.split()) + 2 for text in given], np.int64)
        outputs = [Tensor.from_numpy("embedding", vectors), Tensor.from_numpy("tokens", tokens)]
        return signed(job, self.key, outputs, min(int(tokens.sum()), job.units))


async def add_generator(world: World, name: str, **changes: Any) -> FakeGenerator:
    worker = FakeGenerator(PrivateKey(sha256(name.encode())), **changes)
    world.dispatcher.stream_handlers[worker.key.address] = worker.stream
    await announce(world, worker)
    return worker


async def add_embedder(world: World, name: str, **changes: Any) -> FakeEmbedder:
    worker = FakeEmbedder(PrivateKey(sha256(name.encode())), **changes)
    await announce(world, worker)
    return worker


async def announce(world: World, worker: Any) -> None:
    address = worker.key.address
    world.dispatcher.handlers[address] = worker.plain
    world.registry.records[address] = WorkerRecord(address, b"\x0f" * 20, 10**9, True, "", "", "")
    world.announcements.current.append(world.announcement(worker))
    await world.offers.refresh()


def prompt(text: str = "say something", *, pay: int = 10**6, **changes: Any) -> InferenceRequest:
    parameters = changes.pop("parameters", {"max_tokens": 20})
    return replace(InferenceRequest("tiny", (texts("prompt", text),), voucher(pay), parameters=parameters), **changes)
