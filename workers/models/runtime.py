"""The one door to onnxruntime: telemetry off before the import, execution providers chosen and said aloud.

onnxruntime reads `ORT_DISABLE_TELEMETRY` while it is imported; switching it off by a call afterwards is too late.
"""

from __future__ import annotations

import os
from typing import TypeAlias

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort
import structlog

from workers.errors import StartError

InferenceSession: TypeAlias = ort.InferenceSession

log = structlog.get_logger(__name__)

PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cann": "CANNExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_AUTO = ("cuda", "cpu")


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


def open_session(data: bytes, *, provider: str, threads: int) -> InferenceSession:
    """Load a model from bytes, so that it cannot name files outside its package."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    providers = [PROVIDERS[provider]] if provider == "cpu" else [PROVIDERS[provider], PROVIDERS["cpu"]]
    return InferenceSession(data, options, providers=providers)
