"""A process that makes a model as `workers.making.host` does, taken over by what it read: it does what `task` tells it.

Started by tests in its place, without a sandbox, which shows it no tests.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from workers.models.wire import _HEAD, Wire

GOOD = {"task": "text-embedding", "architecture": "Bert", "precision": "fp32", "apart": 1e-6}


def act(deed, made, wire):
    made.mkdir()
    (made / "model.onnx").write_bytes(b"weights")
    said = ["made", GOOD]
    if deed == "link":
        (made / "README.md").symlink_to("/etc/passwd")
    elif deed == "second name":
        os.link(made / "model.onnx", made / "other.onnx")
    elif deed == "pipe":
        os.mkfifo(made / "pipe")
    elif deed == "setuid":
        (made / "model.onnx").chmod(0o6777)
    elif deed == "nothing":
        (made / "model.onnx").unlink()
        made.rmdir()
    elif deed == "folder link":
        (made / "model.onnx").unlink()
        made.rmdir()
        made.symlink_to("/etc")
    elif deed == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif deed == "hang":
        time.sleep(3600)
    elif deed == "garbage":
        wire.sock.sendall(_HEAD.pack(4, 0) + b"\xc1\xc1\xc1\xc1")
    elif deed == "flood":
        wire.sock.sendall(_HEAD.pack(16, 1 << 40))
    elif deed == "lie":
        said = ["made", {**GOOD, "apart": float("nan")}]
    elif deed == "strange":
        said = ["refused", "no-such-code", "a line\n\x1b[31m" + "x" * 1_000, None, None]
    wire.send(said)
    if deed == "linger":
        time.sleep(3600)
    if deed == "crash late":
        os.kill(os.getpid(), signal.SIGSEGV)


if __name__ == "__main__":
    orders = json.loads(sys.argv[1])
    act(orders["task"], Path(orders["into"]), Wire(socket.socket(fileno=int(sys.argv[2]))))
