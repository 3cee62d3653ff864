"""A JSON-RPC node that forwards to a real one and lies on the way, as overloaded, lagging and broken ones do."""

from __future__ import annotations

import http.server
import json
import random
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

# How many blocks it seems to lie behind.
BEHIND = 2
SILENT_SECONDS = 0.7


class LyingNode:
    """Answers at `url`; each request is answered falsely with probability `share`, in one of the ways of `lies`."""

    def __init__(self, upstream: str, *, seed: int = 0) -> None:
        self.lies: tuple[str, ...] = ()
        self.share = 0.0
        self.told: dict[str, int] = {}
        self._upstream = upstream
        self._random = random.Random(seed)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._answer))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def honest(self) -> None:
        self.lies, self.share = (), 0.0

    def ask(self, method: str, *params: Any) -> Any:
        """Ask the real node; returns its `result`, None for an error."""
        return json.loads(self._forward({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})).get(
            "result"
        )

    def _answer(self, raw: bytes) -> tuple[int, bytes, int]:
        """Return status, body, and how many bytes of it are sent."""
        request = json.loads(raw)
        lie = self._random.choice(self.lies) if self.lies and self._random.random() < self.share else None
        if lie is None:
            return _whole(200, self._forward(request))
        self.told[lie] = self.told.get(lie, 0) + 1
        return (LIES | OTHER_LIES)[lie](self, request)

    def _forward(self, request: Any) -> bytes:
        headers = {"content-type": "application/json"}
        call = urllib.request.Request(self._upstream, json.dumps(request).encode(), headers)
        with urllib.request.urlopen(call, timeout=10) as answer:
            return answer.read()

    def _result(self, request: Any, result: Any) -> tuple[int, bytes, int]:
        return _whole(200, json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode())

    def _if(self, method: str, request: Any, result: Any) -> tuple[int, bytes, int]:
        """Answer one method so, and the others as the real node does."""
        return self._result(request, result) if request["method"] == method else _whole(200, self._forward(request))

    def _cut(self, request: Any) -> tuple[int, bytes, int]:
        body = self._forward(request)
        return 200, body, len(body) // 2

    def _silent(self, request: Any) -> tuple[int, bytes, int]:
        """Do what was asked, and say so too late."""
        body = self._forward(request)
        time.sleep(SILENT_SECONDS)
        return _whole(200, body)

    def _error(self, request: Any) -> tuple[int, bytes, int]:
        error = {"code": -32603, "message": "internal error"}
        return _whole(200, json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}).encode())

    def _twice(self, request: Any) -> tuple[int, bytes, int]:
        """Repeat every entry of a list, and give the node every transaction twice."""
        self._forward(request)
        answer = json.loads(self._forward(request))
        if isinstance(answer.get("result"), list):
            answer["result"] = [entry for entry in answer["result"] for _ in range(2)]
        return _whole(200, json.dumps(answer).encode())

    def _behind(self, request: Any) -> tuple[int, bytes, int]:
        """Answer as the chain stood `BEHIND` blocks ago."""
        head = max(0, int(self.ask("eth_blockNumber"), 16) - BEHIND)
        method, params = request["method"], list(request["params"])
        if method == "eth_blockNumber":
            return self._result(request, hex(head))
        if method == "eth_getBlockByNumber":
            wanted = head if params[0] in ("latest", "pending") else int(params[0], 16)
            return self._result(request, None if wanted > head else self.ask(method, hex(wanted), params[1]))
        if method in ("eth_getTransactionReceipt", "eth_getTransactionByHash"):
            found = self.ask(method, *params)
            newer = found is None or found["blockNumber"] is None or int(found["blockNumber"], 16) > head
            return self._result(request, None if newer else found)
        if method == "eth_getLogs" and "blockHash" in params[0]:
            found = self.ask("eth_getBlockByHash", params[0]["blockHash"], False)
            return self._error(request) if int(found["number"], 16) > head else _whole(200, self._forward(request))
        if method == "eth_getLogs":
            logs = self.ask(method, *params) or []
            return self._result(request, [entry for entry in logs if int(entry["blockNumber"], 16) <= head])
        if method in ("eth_call", "eth_estimateGas", "eth_getTransactionCount", "eth_getBalance"):
            request = {**request, "params": [*params[:1], hex(head)]}
        return _whole(200, self._forward(request))


LIES: dict[str, Callable[[LyingNode, Any], tuple[int, bytes, int]]] = {
    "silent": LyingNode._silent,
    "cut": LyingNode._cut,
    "unavailable": lambda _node, _request: _whole(503, b"overloaded"),
    "limited": lambda _node, _request: _whole(429, b"too many requests"),
    "garbage": lambda _node, _request: _whole(200, b"<html>maintenance</html>"),
    "no text": lambda _node, _request: _whole(200, b"\xff\xfe\x00"),
    "no object": lambda _node, _request: _whole(200, b"[]"),
    "error": LyingNode._error,
    "nothing": lambda node, request: node._result(request, None),
    "a number": lambda node, request: node._result(request, 7),
    "an empty object": lambda node, request: node._result(request, {}),
    "twice": LyingNode._twice,
    "behind": LyingNode._behind,
}
# Numbers that look like others.
GREEDY_FEE = 10**15
OTHER_LIES: dict[str, Callable[[LyingNode, Any], tuple[int, bytes, int]]] = {
    "ahead": lambda node, request: node._if("eth_call", request, "0x" + (9).to_bytes(32, "big").hex()),
    "greedy": lambda node, request: node._if("eth_maxPriorityFeePerGas", request, hex(GREEDY_FEE)),
}


def _whole(status: int, body: bytes) -> tuple[int, bytes, int]:
    return status, body, len(body)


def _handler(answer: Callable[[bytes], tuple[int, bytes, int]]) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else every answer's body waits 40 ms for the client to acknowledge its head

        def do_POST(self) -> None:
            status, body, sent = answer(self.rfile.read(int(self.headers["content-length"])))
            try:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(body[:sent])
            except OSError:
                self.close_connection = True
            if sent < len(body):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
