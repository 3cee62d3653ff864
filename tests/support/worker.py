"""A tiny model, a chain that answers as told, and jobs in order: what the worker's tests start from."""

import hashlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from contracts.bindings.escrow import ChannelState
from contracts.bindings.model_registry import ModelState
from contracts.protocol.manifest import FILENAME, FileEntry, Manifest, TensorSpec
from contracts.protocol.messages import Job
from contracts.protocol.money import split_price
from contracts.protocol.pricing import Unit
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import Tensor, content_hash, encode_tensors
from contracts.protocol.typed_data import Channel, Domain, Voucher

DOMAIN = Domain(31337, b"\xee" * 20)
PAYER, GATEWAY, WORKER = (PrivateKey(bytes([i]) * 32) for i in (1, 2, 3))
CHANNEL = Channel(PAYER.address, PAYER.address, GATEWAY.address, 7)
ROYALTY, FEE, UNIT_PRICE = 100_000, 50_000, 1_000


def make_mlp(path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(4, 16)).astype("f4"),
        "w2": rng.normal(size=(16, 3)).astype("f4"),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "w2"], ["y"]),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_package(folder, **changes) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    make_mlp(folder / "model.onnx")
    data = (folder / "model.onnx").read_bytes()
    manifest = Manifest(
        **{
            "task": "tensor",
            "entry": "model.onnx",
            "files": {"model.onnx": FileEntry(hashlib.sha256(data).digest(), len(data))},
            "inputs": (TensorSpec("x", "FP32", (-1, 4)),),
            "outputs": (TensorSpec("y", "FP32", (-1, 3)),),
            "unit": Unit.ROW,
            "batch_axis": 0,
            "max_batch": 8,
            "license": "MIT",
            **changes,
        }
    )
    (folder / FILENAME).write_bytes(manifest.to_bytes())
    return manifest


class FakeChain:
    """Answers as the chain would; `deposited` and `royalty_ppm` can be turned."""

    def __init__(self) -> None:
        self.deposited = 1_000_000
        self.royalty_ppm = ROYALTY
        self.away = False

    def channel(self, channel_id, needed):
        return None if self.away else ChannelState(self.deposited, 0, 0, 0)

    def listing(self, model_id):
        state = ModelState(b"\1" * 20, bytes(20), 0, 10**9, self.royalty_ppm, 1, True, 0, bytes(32), "m", "")
        return None if self.away else state


def make_job(manifest: Manifest, x=None, **changes) -> tuple[Job, bytes]:
    x = np.ones((2, 4), "f4") if x is None else x
    tensors = x if isinstance(x, list) else [Tensor.from_numpy("x", x)]
    blob = encode_tensors(tensors, changes.pop("parameters", None))
    units = max(1, tensors[0].shape[0] if tensors and tensors[0].shape else 1)
    price = UNIT_PRICE * units
    split = split_price(price, ROYALTY, FEE)
    channel = changes.pop("channel", CHANNEL)
    cumulative = changes.pop("cumulative", price)
    voucher_amount = changes.pop("voucher_amount", cumulative)
    voucher = Voucher(channel.digest(DOMAIN), voucher_amount)
    fields = {
        "request_id": hashlib.sha256(blob + repr(sorted(changes.items(), key=lambda item: item[0])).encode()).digest(),
        "attempt": "1",
        "channel": channel,
        "seq": 1,
        "model_id": manifest.model_id,
        "units": units,
        "price": price,
        "worker_amount": split.worker_amount,
        "owner_amount": split.owner_amount,
        "royalty_ppm": ROYALTY,
        "fee_ppm": FEE,
        "cumulative": cumulative,
        "voucher_amount": voucher_amount,
        "voucher_signature": PAYER.sign_digest(voucher.digest(DOMAIN)),
        "deadline_at": 2e9 * 10,
        "input_hash": content_hash(blob),
        "inputs": blob,
        "inputs_ref": None,
        "outputs": (),
        "reply_to": "reply:x",
    }
    return Job(**(fields | changes)), blob
