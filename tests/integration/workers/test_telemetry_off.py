"""onnxruntime says nothing to its vendor: the switch is thrown before the import, and no cache file appears."""

import os
import subprocess
import sys

SCRIPT = """
import os, sys
assert "onnxruntime" not in sys.modules
import workers.models.runtime as runtime
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
import numpy as np
from onnx import TensorProto, helper
graph = helper.make_graph(
    [helper.make_node("Relu", ["x"], ["y"])], "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = runtime.open_session(model.SerializeToString(), provider=runtime.choose_provider("auto"), threads=1)
assert session.run(["y"], {"x": np.ones(1, "f4")})[0][0] == 1
def sockets():
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.append(target)
    return found
assert not sockets(), sockets()
"""


def test_no_file_and_no_connection(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    environment["HOME"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*"))


def test_nothing_else_imports_onnxruntime():
    done = subprocess.run(
        ["git", "grep", "-nE", r"^\s*(import|from) onnxruntime(_genai)?\b", "--", "market", "workers", "contracts"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    importers = {line.split(":")[0] for line in done.stdout.splitlines()}
    assert importers == {"workers/models/runtime.py", "workers/models/generation/genai.py"}
