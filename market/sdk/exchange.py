"""One paid request without I/O: what is sent, and what must hold of the answer before the charge is accepted.

Decides prices that a client expects, the headers it sends and every check of an answer against its own request. It
never trusts the gateway's word for what the worker signed. Called by the synchronous and asynchronous clients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import numpy as np
import orjson
from numpy.typing import NDArray

from contracts.protocol.errors import ProtocolError, TensorError
from contracts.protocol.hexes import address_from_hex, from_hex, hex0x
from contracts.protocol.manifest import TEXT_TASKS
from contracts.protocol.metering import ceiling_units
from contracts.protocol.pricing import Unit, count_units, price_up
from contracts.protocol.receipts import is_receipt_signed_by
from contracts.protocol.request_ids import new_request_id
from contracts.protocol.sealed import KEY_BYTES
from contracts.protocol.sealing import open_answer, seal_request
from contracts.protocol.signing import SIGNATURE_BYTES
from contracts.protocol.tensors import NUMPY_DTYPES, Tensor, content_hash, encode_tensors, pack_bytes
from contracts.protocol.typed_data import Channel, Domain
from market.sdk.errors import ClientError, GatewayMisbehaved
from market.sdk.papers import SignedReceipt

Inputs = Mapping[str, NDArray[Any]] | Sequence[Tensor]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the gateway says of a model: id, unit and the unit prices of its live offers, atomic units.

    `sealing` has what workers' requests can be sealed to, by address and the cheapest first: key and signature as
    announced, not checked yet.
    """

    name: str
    model_id: bytes
    unit: Unit
    batch_axis: int | None
    unit_prices: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""
    sealing: Mapping[bytes, bytes] = field(default_factory=dict)

    @property
    def is_metered(self) -> bool:
        """Whether only serving a request shows how many units it takes."""
        return self.unit.is_tokens and self.task in TEXT_TASKS

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelInfo:
        """Read the answer of `/market/v1/models/{m}`.

        Raises:
            GatewayMisbehaved: a field is missing or malformed.
        """
        try:
            axis = data["batchAxis"]
            return cls(
                str(data["name"]),
                from_hex(data["modelId"], 32, field="modelId"),
                Unit[str(data["unit"]).upper()],
                None if axis is None else int(axis),
                tuple(sorted(int(offer["unitPrice"]) for offer in data["offers"])),
                dict(data.get("options") or {}),
                str(data.get("task") or ""),
                _sealing(data["offers"]),
            )
        except (KeyError, TypeError, ValueError, ProtocolError) as error:
            raise GatewayMisbehaved("the description of the model is malformed.", field="model") from error

    def expected_price(self, tensors: Sequence[Tensor]) -> int:
        """Return the price at the cheapest live offer, 0 if there is none."""
        units = count_units(self.unit, tensors, self.batch_axis, self.options)
        if not self.unit_prices:
            return 0
        return price_up(self.unit_prices[0], units, units_per_price=self.unit.per_price)


@dataclass(frozen=True, slots=True)
class Call:
    """A request ready to be sent and paid for; repeating it with the same `request_id` is charged once.

    `header_bytes` is how much of the body is JSON where tensors follow it in binary, else None; `route` is where it
    goes if not to the model's infer route; `answer_key` opens the answer to a sealed request.
    """

    model: str
    model_id: bytes
    body: bytes
    input_hash: bytes
    request_id: bytes
    tensors: tuple[Tensor, ...]
    header_bytes: int | None = None
    route: str | None = None
    answer_key: bytes = b""

    @property
    def path(self) -> str:
        """Where it is sent."""
        return f"/v2/models/{self.model}/infer" if self.route is None else self.route

    @property
    def stream(self) -> bool:
        """Whether its answer comes in pieces: what does not go to the infer route does."""
        return self.route is not None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A checked answer: outputs by name, its receipt, what it cost (atomic units).

    `answer_key` opened it if the request was sealed: whoever is shown it, with what was sent and came back, can read
    what the receipt's hashes stand for.
    """

    outputs: Mapping[str, NDArray[Any]]
    paper: SignedReceipt
    charged: int
    cumulative: int
    answer_key: bytes = b""


def prepare(
    info: ModelInfo,
    inputs: Inputs,
    *,
    outputs: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    request_id: bytes | None = None,
    in_binary: bool = False,
    binary_outputs: bool = False,
) -> Call:
    """Build the request and the hash that the receipt must carry; `in_binary` sends all tensors behind the JSON.

    `binary_outputs` asks for those of the answer there, which changes nothing of the hash.

    Raises:
        TensorError: an input contradicts itself.
    """
    tensors = as_tensors(inputs)
    # JSON holds texts only: bytes that are none, such as pictures, follow it.
    binary = [tensor for tensor in tensors if in_binary or not _is_text(tensor)]
    body: dict[str, Any] = {
        "inputs": [
            {"name": t.name, "datatype": t.datatype, "shape": list(t.shape)}
            | ({"parameters": {"binary_data_size": len(t.data)}} if t in binary else {"data": _json_data(t)})
            for t in tensors
        ]
    }
    if outputs:
        body["outputs"] = [{"name": name} for name in outputs]
    if parameters or binary_outputs:
        body["parameters"] = {**(parameters or {}), **({"binary_data_output": True} if binary_outputs else {})}
    head = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return Call(
        model=info.name,
        model_id=info.model_id,
        body=b"".join((head, *(tensor.data for tensor in binary))),
        input_hash=content_hash(encode_tensors(tensors, parameters)),
        request_id=request_id or new_request_id(),
        tensors=tensors,
        header_bytes=len(head) if binary else None,
    )


def prepare_sealed(
    info: ModelInfo,
    inputs: Inputs,
    public_key: bytes,
    *,
    parameters: Mapping[str, Any] | None = None,
    request_id: bytes | None = None,
) -> Call:
    """Build a request that only the holder of the worker's sealing key can read.

    Raises:
        TensorError: an input contradicts itself.
    """
    tensors = as_tensors(inputs)
    units = ceiling_units(info, tensors, parameters or {})
    sealed = seal_request(public_key, info.model_id, tensors, parameters or {}, units=units)
    call = prepare(info, sealed.tensors, parameters=sealed.parameters, request_id=request_id, in_binary=True)
    # What it costs follows from what is inside.
    return replace(call, tensors=tensors, answer_key=sealed.answer_key)


def as_tensors(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return inputs as tensors.

    Raises:
        TensorError: an array's dtype has no datatype.
    """
    if not isinstance(inputs, Mapping):
        return tuple(inputs)
    return tuple(Tensor.from_numpy(name, np.asarray(array)) for name, array in inputs.items())


class Limits(TypedDict, total=False):
    """What a request may cost, in atomic units, and which workers will do: one by its address, a region, a stake."""

    max_price: int | None
    worker: str | None
    region: str | None
    min_stake: int


def worker_headers(limits: Limits, *, hedge: bool = False) -> dict[str, str]:
    """Return the headers that say which workers will do, and whether two may be asked.

    Raises:
        ClientError: a limit is no text that a header can hold.
    """
    wishes = {
        "Market-Worker": limits.get("worker"),
        "Market-Region": limits.get("region"),
        "Market-Min-Stake": str(limits.get("min_stake") or ""),
        "Market-Hedge": "true" if hedge else None,
    }
    for name, value in wishes.items():
        if value and not (isinstance(value, str) and value.isascii() and value.isprintable()):
            raise ClientError(
                f"{value!r} is no printable ASCII text.", field=name, remedy="Correct it or leave it out."
            )
    return {name: value for name, value in wishes.items() if value}


def payment_headers(call: Call, voucher: str) -> dict[str, str]:
    """Return the headers that pay for a call; `voucher` is `Wallet.voucher_header`."""
    headers = {
        "Content-Type": "application/json",
        "Market-Voucher": voucher,
        "Market-Request-Id": hex0x(call.request_id),
    }
    if call.header_bytes is not None:
        headers |= {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(call.header_bytes),
        }
    return headers


def check_answer(
    call: Call, headers: Mapping[str, str], body: bytes, *, channel: Channel, domain: Domain, signed: int
) -> Outcome:
    """Check an answer against the request, the channel and both signatures.

    Raises:
        GatewayMisbehaved: something does not hold; `field` names it.
    """
    paper = SignedReceipt.from_header(headers.get("market-receipt", ""), model=call.model)
    outputs, parameters = _outputs(body, headers.get("inference-header-content-length"))
    output_hash = content_hash(encode_tensors(outputs, parameters))
    check_paper(call, paper, [output_hash], channel=channel, domain=domain, signed=signed)
    receipt = paper.receipt
    if call.answer_key:
        try:
            outputs, _ = open_answer(call.answer_key, call.model_id, outputs)
        except TensorError as error:
            # The worker signed it: it is the worker who did not seal to us, and the receipt shows it.
            raise GatewayMisbehaved(error.detail, field="outputs") from error
    arrays = {t.name: t.to_numpy() for t in outputs}
    return Outcome(arrays, paper, receipt.price, receipt.cumulative, call.answer_key)


def check_paper(
    call: Call,
    paper: SignedReceipt,
    output_hashes: Sequence[bytes] | None,
    *,
    channel: Channel,
    domain: Domain,
    signed: int,
) -> None:
    """Check a receipt against its request, the channel and both signatures; it must name one of the outputs' hashes.

    None stands for outputs that are not known here, since the client left before their end.

    Raises:
        GatewayMisbehaved: something does not hold; `field` names it.
    """
    receipt, digest = paper.receipt, paper.receipt.digest(domain)
    checks = {
        "requestId": receipt.request_id == call.request_id,
        "channelId": receipt.channel_id == channel.digest(domain),
        "payer": receipt.payer == channel.payer,
        "gateway": receipt.gateway == channel.gateway,
        "modelId": receipt.model_id == call.model_id,
        "inputHash": receipt.input_hash == call.input_hash,
        "outputHash": output_hashes is None or receipt.output_hash in output_hashes,
        "cumulative": receipt.cumulative <= signed and receipt.price <= receipt.cumulative,
        "workerSignature": is_receipt_signed_by(digest, paper.worker_signature, receipt.worker, domain),
        "gatewaySignature": is_receipt_signed_by(digest, paper.gateway_signature, receipt.gateway, domain),
    }
    for checked, holds in checks.items():
        if not holds:
            raise GatewayMisbehaved("the receipt does not match the request and its answer.", field=checked)


def _sealing(offers: Sequence[Mapping[str, Any]]) -> dict[bytes, bytes]:
    found = {}
    for offer in sorted(offers, key=lambda offer: int(offer["unitPrice"])):
        given = offer.get("sealing")
        if given is not None:
            key = from_hex(str(given["key"]), KEY_BYTES, field="key")
            signature = from_hex(str(given["signature"]), SIGNATURE_BYTES, field="signature")
            found[address_from_hex(str(offer["worker"]), field="worker")] = key + signature
    return found


def _is_text(tensor: Tensor) -> bool:
    """Tell whether a tensor can stand in JSON: numbers, or bytes that are all UTF-8."""
    if tensor.datatype != "BYTES":
        return True
    try:
        for item in tensor.to_numpy().reshape(-1):
            item.decode()
    except UnicodeDecodeError:
        return False
    return True


def _json_data(tensor: Tensor) -> list[Any] | NDArray[Any]:
    array = tensor.to_numpy().reshape(-1)
    if tensor.datatype == "BYTES":
        return [item.decode() for item in array]
    return np.require(array, requirements=["C", "A"])


def lacks_numbers(error: GatewayMisbehaved, reply: Mapping[str, str], body: bytes) -> bool:
    """Tell whether an answer may not match its receipt because JSON has no word for infinities, and one for all NaN."""
    return error.field == "outputHash" and "inference-header-content-length" not in reply and b"null" in body


def _outputs(body: bytes, header_length: str | None) -> tuple[list[Tensor], dict[str, Any]]:
    try:
        end = len(body) if header_length is None else int(header_length)
        answer = orjson.loads(body[:end])
        tensors = []
        for row in answer["outputs"]:
            size = int((row.get("parameters") or {}).get("binary_data_size", 0))
            tensors.append(_tensor(row) if "data" in row else _raw_tensor(row, body[end : end + size]))
            end += size
        return tensors, dict(answer.get("parameters") or {})
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise GatewayMisbehaved("the answer is not an Open Inference Protocol answer.", field="outputs") from error


def _tensor(row: Mapping[str, Any]) -> Tensor:
    name, datatype, shape = str(row["name"]), str(row["datatype"]), tuple(int(size) for size in row["shape"])
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, pack_bytes(row["data"], name))
    dtype = NUMPY_DTYPES[datatype]
    data = row["data"]
    if dtype.kind == "f":
        data = [math.nan if item is None else item for item in data]  # JSON has no NaN
    return Tensor.from_numpy(name, np.array(data, dtype=dtype).reshape(shape))


def _raw_tensor(row: Mapping[str, Any], data: bytes) -> Tensor:
    return Tensor(str(row["name"]), str(row["datatype"]), tuple(int(size) for size in row["shape"]), data)
