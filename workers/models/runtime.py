"""The one door to onnxruntime: telemetry off before the import, execution providers chosen and said aloud, quantising.

onnxruntime reads `ORT_DISABLE_TELEMETRY` while it is imported; switching it off by a call afterwards is too late.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime as ort
import structlog
from numpy.typing import NDArray

from contracts.protocol.tensors import BFLOAT16
from workers.errors import StartError

InferenceSession: TypeAlias = ort.InferenceSession
RunOptions: TypeAlias = ort.RunOptions

log = structlog.get_logger(__name__)

PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cann": "CANNExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_AUTO = ("cuda", "cpu")
MAX_CUDA_GRAPHS = 64
_ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16
# Weights that share one scale, of those that int4 makes small.
QUANTIZE_BLOCK = 32
# Convolutions gain nothing from dynamic int8 on CPUs, so they stay as they are.
INT8_OPERATORS = ("MatMul", "Attention", "LSTM", "Gather", "EmbedLayerNormalization")
# Beyond this an ONNX file cannot hold its weights inside.
MAX_INLINE_BYTES = 1_500_000_000
# A path that cannot exist.
NOWHERE = f"{os.devnull}/nowhere"


def choose_provider(wanted: str) -> str:
    """Return the provider to use: `auto` takes CUDA where it works, else the CPU.

    Raises:
        StartError: the provider asked for is not in this build of onnxruntime.
    """
    available = ort.get_available_providers()
    if wanted != "auto":
        if PROVIDERS[wanted] not in available:
            raise StartError(
                f"this onnxruntime has no {PROVIDERS[wanted]}.",
                field="WORKER_PROVIDER",
                remedy=f"It has {', '.join(available)}; install the [gpu] extra for CUDA, or set auto.",
            )
        return wanted
    chosen = next(name for name in _AUTO if PROVIDERS[name] in available)
    log.info("provider-chosen", provider=chosen, available=available, onnxruntime=ort.__version__)
    return chosen


def open_session(
    data: bytes,
    *,
    provider: str,
    threads: int,
    external: Mapping[str, bytes] | None = None,
    cuda_graphs: bool = False,
    memory_bytes: int = 0,
) -> InferenceSession:
    """Load a model from bytes, so that it cannot name files outside its package; `external` are its weights' files.

    A provider that does not take the model is said aloud, and the CPU takes it. `memory_bytes` is the most that the
    model may take of a card, 0 for no limit.
    """
    if provider == "cpu":
        return _open(data, ["cpu"], threads, external)
    try:
        options = cuda_options(cuda_graphs=cuda_graphs, memory_bytes=memory_bytes) if provider == "cuda" else {}
        session = _open(data, [provider, "cpu"], threads, external, options)
    except Exception as error:  # onnxruntime raises its own unrelated classes
        log.warning("provider-fell-back", wanted=provider, taken="cpu", reason=str(error).partition("\n")[0][:300])
        return _open(data, ["cpu"], threads, external)
    if PROVIDERS[provider] not in session.get_providers():
        log.warning("provider-fell-back", wanted=provider, taken=session.get_providers())
    return session


def cuda_options(*, cuda_graphs: bool = False, memory_bytes: int = 0) -> dict[str, str]:
    """Return the CUDA provider's options; the limit is on onnxruntime's own arena: weights, activations, scratch space.

    Under it the arena grows by what is asked for, not by powers of two, which would stop short of it.
    """
    options = {"enable_cuda_graph": "1"} if cuda_graphs else {}
    if memory_bytes:
        options |= {"gpu_mem_limit": str(memory_bytes), "arena_extend_strategy": "kSameAsRequested"}
    return options


def open_file(path: str, *, threads: int) -> InferenceSession:
    """Load a checked file on the CPU, its weights from beside it and in no second copy."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return InferenceSession(path, options, providers=[PROVIDERS["cpu"]])


def _open(
    data: bytes,
    providers: Sequence[str],
    threads: int,
    external: Mapping[str, bytes] | None,
    first_options: Mapping[str, str] | None = None,
) -> InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Of a model given as bytes onnxruntime would read weights from the working folder: a stranger's graph could hand
    # out whatever lies there. Weights come from `external` only.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
    if external:
        files = list(external.items())
        options.add_external_initializers_from_files_in_memory(
            [name for name, _ in files], [content for _, content in files], [len(content) for _, content in files]
        )
    provider_options = [dict(first_options or {}), *({} for _ in providers[1:])]
    return InferenceSession(
        data, options, providers=[PROVIDERS[name] for name in providers], provider_options=provider_options
    )


def available_providers() -> list[str]:
    """Return the providers that this build of onnxruntime has, by our names, the CPU last."""
    built = ort.get_available_providers()
    return [name for name, full in PROVIDERS.items() if full in built]


def version() -> str:
    """Return onnxruntime's version."""
    return str(ort.__version__)


def quantize(source: Path, target: Path, precision: str, *, large: bool) -> None:
    """Write a smaller model by onnxruntime's own tools; `large`: its weights go into a file beside it.

    `precision` `int8`: weights and, as the model runs, activations; `int4`: weights in blocks of 32, computed in float.
    """
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(INT8_OPERATORS),
            per_channel=True,
            # Seven bits: without VNNI a CPU's eight by eight bit sums saturate, and models move between machines.
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
        )
        return
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        str(source), bits=4, block_size=QUANTIZE_BLOCK, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), large)


def run_bfloat16(
    session: InferenceSession,
    inputs: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
    options: RunOptions | None = None,
) -> list[NDArray[Any]]:
    """Run a graph of whose tensors some are bfloat16, which numpy does not know: they come and go as BFLOAT16."""
    given = {name: _to_value(np.ascontiguousarray(array)) for name, array in inputs.items()}
    return [_from_value(value) for value in session.run_with_ort_values(list(outputs), given, options)]


def _to_value(array: NDArray[Any]) -> Any:
    if array.dtype == BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view("<u2"), _ONNX_BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _from_value(value: Any) -> NDArray[Any]:
    if value.data_type() != "tensor(bfloat16)":
        return np.asarray(value.numpy())
    if value.device_name() != "cpu":
        raise RuntimeError(f"a bfloat16 output is left on {value.device_name()}.")
    shape = value.shape()
    size = prod(shape) * BFLOAT16.itemsize
    return np.frombuffer(ctypes.string_at(value.data_ptr(), size) if size else b"", BFLOAT16).reshape(shape)


class CudaGraphRunner:
    """Runs a session on CUDA with inputs and outputs bound to fixed device memory, a captured graph for each shape.

    Written after onnxruntime's documentation and never run on a GPU by us.
    """

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._shapes: dict[Any, tuple[int, Any, dict[str, Any]]] = {}

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Run once; the first time for a shape without a graph, to learn the outputs' sizes."""
        key = (tuple(outputs), *((name, array.shape, str(array.dtype)) for name, array in sorted(inputs.items())))
        known = self._shapes.get(key)
        if known is None:
            return self._capture(key, inputs, outputs)
        number, binding, held = known
        for name, array in inputs.items():
            held[name].update_inplace(np.ascontiguousarray(array))
        self._session.run_with_iobinding(binding, _graph_run(number))
        return [np.asarray(value) for value in binding.copy_outputs_to_cpu()]

    def _capture(self, key: Any, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        plain = ort.RunOptions()
        plain.add_run_config_entry("gpu_graph_id", "-1")
        values = [np.asarray(value) for value in self._session.run(list(outputs), dict(inputs), plain)]
        if len(self._shapes) >= MAX_CUDA_GRAPHS:
            return values  # a model of many shapes gains nothing by more
        binding = self._session.io_binding()
        held = {}
        for name, array in inputs.items():
            held[name] = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", 0)
            binding.bind_ortvalue_input(name, held[name])
        for name, array in zip(outputs, values, strict=True):
            held[f"output {name}"] = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, "cuda", 0)
            binding.bind_ortvalue_output(name, held[f"output {name}"])
        self._shapes[key] = (len(self._shapes) + 1, binding, held)
        return values


def _graph_run(number: int) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options
