"""A chat in pieces without I/O: what is sent, how the events read, and what must hold of the receipt at their end.

The text goes to the caller as it comes; the receipt, which comes last, must name the hash of exactly that text. A
caller who leaves pays for what was sent: the receipt of that is fetched, checked and kept before the money is free for
others. Called by both clients, which do what the steps yield; it never decides how much is signed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from contracts.protocol.hexes import hex0x
from contracts.protocol.request_ids import new_request_id
from contracts.protocol.tensors import Tensor, content_hash, encode_tensors
from market.sdk.effects import Give, Left, Pause, Read, Reply, Steps, plain_problem
from market.sdk.errors import GatewayMisbehaved, GatewayRefused, GatewayUnreachable
from market.sdk.exchange import Call, Limits, ModelInfo, Outcome, check_paper, worker_headers
from market.sdk.kernel import Kernel
from market.sdk.papers import KeptChannel, SignedReceipt
from market.sdk.tasks import Chat, chat_inputs, chat_parameters

ROUTE = "/v1/chat/completions"
_LOOKS = 30
_LOOK_SECONDS = 0.1
# The worker's own words for a generation that was stopped, which OpenAI's clients are told as "length".
_REASONS = {"stop": ("stop",), "length": ("length", "cancelled")}


def chat(
    kernel: Kernel,
    model: str,
    messages: Sequence[Mapping[str, str]],
    parameters: Mapping[str, Any],
    limits: Limits,
) -> Steps[Chat | None]:
    """Pay for a chat and give its pieces; returns the whole of it, None if the caller left."""
    info = yield from kernel.model(model)
    call = prepare_chat(info, messages, parameters)

    def take(reply: Reply, kept: KeptChannel) -> Steps[Chat | None]:
        del reply  # its content is still on the connection
        return (yield from _take(kernel, call, kept))

    return (yield from kernel.pay(call, info, take, max_price=limits.get("max_price"), wishes=worker_headers(limits)))


def prepare_chat(info: ModelInfo, messages: Sequence[Mapping[str, str]], parameters: Mapping[str, Any]) -> Call:
    """Build the request, and the hash of the tensors and parameters that the gateway makes of it."""
    sent = {name: value for name, value in parameters.items() if value is not None}
    body = {"model": info.name, "messages": [dict(one) for one in messages], **sent}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    inputs = chat_inputs(messages)
    assert isinstance(inputs, Mapping)
    tensors = tuple(Tensor.from_numpy(name, array) for name, array in inputs.items())
    return Call(
        model=info.name,
        model_id=info.model_id,
        body=orjson.dumps(body),
        input_hash=content_hash(encode_tensors(tensors, chat_parameters(sent))),
        request_id=new_request_id(),
        tensors=tensors,
        route=ROUTE,
    )


class EventReader:
    """Splits what comes into the JSON objects of server-sent events."""

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Return the events that are whole by now.

        Raises:
            GatewayMisbehaved: one is not JSON.
        """
        *events, self._left = (self._left + data).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            for line in event.split(b"\n"):
                if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
                    continue
                try:
                    found = orjson.loads(line[5:])
                except ValueError as error:
                    raise GatewayMisbehaved("an event of the stream is not JSON.", field="stream") from error
                if isinstance(found, dict):
                    yield found


class _Heard:
    """What the events said so far."""

    def __init__(self) -> None:
        self.text = ""
        self.any = False
        self.reason = ""
        self.receipt = ""
        self.usage: Mapping[str, Any] = {}

    def take(self, event: Mapping[str, Any]) -> str:
        """Note an event; returns its piece of text."""
        if "error" in event:
            raise GatewayRefused(200, plain_problem(event))
        self.any = True
        try:
            for choice in event["choices"]:
                self.reason = choice.get("finish_reason") or self.reason
            self.receipt = (event.get("market") or {}).get("receipt", self.receipt)
            self.usage = event.get("usage") or self.usage
            delta = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        except (KeyError, TypeError, AttributeError) as error:
            raise GatewayMisbehaved("an event is none of a chat.", field="stream") from error
        self.text += delta
        return delta


def _take(kernel: Kernel, call: Call, kept: KeptChannel) -> Steps[Chat | None]:
    heard, reader = _Heard(), EventReader()
    try:
        while (data := (yield Read())) is not None:
            for event in reader.feed(data):
                delta = heard.take(event)
                if delta:
                    yield Give(delta)
        if not heard.receipt:
            raise GatewayUnreachable("the stream ended before its receipt.")
    except Left:
        yield from _look_for_receipt(kernel, call, kept)
        return None
    except GatewayUnreachable:
        if heard.any:
            yield from _look_for_receipt(kernel, call, kept)
        raise
    return _checked(kernel, call, kept, heard)


def _checked(kernel: Kernel, call: Call, kept: KeptChannel, heard: _Heard) -> Chat:
    paper = SignedReceipt.from_header(heard.receipt, model=call.model)
    try:
        prompt, made = int(heard.usage["prompt_tokens"]), int(heard.usage["completion_tokens"])
        candidates = [_outputs(heard.text, reason, prompt, made) for reason in _REASONS[heard.reason]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise GatewayMisbehaved("the stream says no reason or usage.", field="stream") from error
    hashes = [content_hash(encode_tensors(tensors)) for tensors in candidates]
    check_paper(call, paper, hashes, channel=kept.channel, domain=kept.domain, signed=kernel.signed(kept))
    kernel.keep(paper)
    outputs = {tensor.name: tensor.to_numpy() for tensor in candidates[hashes.index(paper.receipt.output_hash)]}
    outcome = Outcome(outputs, paper, paper.receipt.price, paper.receipt.cumulative)
    return Chat(heard.text, heard.reason, prompt, made, outcome)


def _outputs(text: str, reason: str, prompt: int, made: int) -> list[Tensor]:
    return [
        Tensor.from_numpy("text", np.array([text.encode()], dtype=object)),
        Tensor.from_numpy("finish_reason", np.array([reason.encode()], dtype=object)),
        Tensor.from_numpy("usage", np.array([prompt, made], np.int64)),
    ]


def _look_for_receipt(kernel: Kernel, call: Call, kept: KeptChannel) -> Steps[None]:
    """Keep the receipt of what was sent before the end, as soon as the worker has signed for it.

    There is none if the gateway saw the client leave before the first piece; then nothing is charged.
    """
    path = f"/market/v1/receipts/{hex0x(call.request_id)}?channel={hex0x(kept.channel_id)}"
    for _ in range(_LOOKS):
        yield Pause(_LOOK_SECONDS)
        try:
            paper = SignedReceipt.from_json({**(yield from kernel.get(path)), "model": call.model})
        except GatewayUnreachable:
            return
        except GatewayRefused as error:
            if error.code != "receipt-not-found":
                return
        else:
            check_paper(call, paper, None, channel=kept.channel, domain=kept.domain, signed=kernel.signed(kept))
            kernel.keep(paper)
            return
