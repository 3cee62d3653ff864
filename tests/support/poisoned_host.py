"""A model's process that behaves, but for what certain inputs make it do: what a hostile model might bring about.

The first number of a request says it: see `DEEDS`. Started by tests in place of `workers.models.isolated.host`.
"""

import json
import os
import signal
import socket
import sys
import time

import numpy as np

from workers.models.isolated import host
from workers.models.wire import _HEAD, Wire

CRASH, HANG, TRICKLE, GARBAGE, FLOOD, LIE, STRANGE = range(1_001, 1_008)


def act(deed, wire, number):
    if deed == CRASH:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif deed == HANG:
        time.sleep(3600)
    elif deed == TRICKLE:
        while True:  # a message that never ends
            wire.sock.sendall(_HEAD.pack(1 << 20, 0) if deed else b"x")
            deed = 0
            time.sleep(0.05)
    elif deed == GARBAGE:
        wire.sock.sendall(_HEAD.pack(4, 0) + b"\xc1\xc1\xc1\xc1")
    elif deed == FLOOD:
        wire.sock.sendall(_HEAD.pack(16, 1 << 40))
    elif deed == LIE:
        wire.send(["did", number, [[0, 1, [["y", "FP32", [2, 3], 12]]]], []], [b"\0" * 12])
    elif deed == STRANGE:
        wire.send(["did", number, [[7, 0, [["y", "FP32", [1, 3], 12]]]], []], [b"\0" * 12])


def serve(wire, model):
    from workers.models.isolated.messages import pack_outcomes, read_requests
    from workers.models.serving import serve

    while True:
        for (_, number, said), data in wire.take():
            requests = read_requests(said, data)
            for request in requests:
                act(int(np.ravel(request.tensors[0].to_numpy())[0]), wire, number)
            for outcomes, _ in serve(model, requests):
                wire.send(*pack_outcomes(number, outcomes))


if __name__ == "__main__":
    orders = json.loads(sys.argv[1])
    model, facts = host._open(orders)
    wire = Wire(socket.socket(fileno=int(sys.argv[2])))
    wire.send(["ready", facts])
    try:
        serve(wire, model)
    except (EOFError, OSError):
        sys.exit(0)
