"""What every peer serves: the same file, by the same runtime, with the same options; in the peer's own environment."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime

NAME = os.environ["BENCH_INPUT"]
DTYPE = {"FP32": np.float32, "INT64": np.int64}[os.environ["BENCH_DATATYPE"]]
PORT = int(os.environ["BENCH_PORT"])
MAX_BATCH = 32


def session():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])


def run(ready, array):
    return ready.run(None, {NAME: array})[0]
