"""What a bot sees of Telegram's Bot API: long polls of getUpdates, sendMessage, and its ways to refuse."""

import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "123456:a-token"


class BotApi:
    """One bot's updates; those below the offset of the newest getUpdates are forgotten, as Telegram does."""

    def __init__(self):
        self.changed = threading.Condition()
        self.waiting, self.sent = [], []
        self.refusals = []  # (status, answer) given instead of the next answers to sendMessage
        self.next_id = secrets.randbelow(10**8)  # as Telegram begins somewhere
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                if not sent:
                    return  # a bot that was killed
                status, answer = api.answer(self.path, json.loads(sent))
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *said):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                """A bot that was killed leaves its connection."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path, asked):
        _, bot, method = path.split("/")
        if bot != f"bot{TOKEN}":
            return 401, {"ok": False, "error_code": 401, "description": "Unauthorized"}
        if method == "getUpdates":
            return 200, {"ok": True, "result": self.updates(asked["offset"], asked["timeout"])}
        assert method == "sendMessage", method
        with self.changed:
            if self.refusals:
                refusal = self.refusals.pop(0)
                self.changed.notify_all()
                return refusal
            assert 0 < len(asked["text"]) <= 4096
            self.sent.append((asked["chat_id"], asked["text"]))
            self.changed.notify_all()
        return 200, {"ok": True, "result": {"message_id": len(self.sent), "chat": {"id": asked["chat_id"]}}}

    def updates(self, offset, timeout):
        with self.changed:
            self.waiting = [one for one in self.waiting if one["update_id"] >= offset]
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.waiting, timeout)
            return list(self.waiting)

    def say(self, chat, **message):
        """A person writes to the bot."""
        with self.changed:
            self.next_id += 1
            self.waiting.append({"update_id": self.next_id, "message": {"chat": {"id": chat}, **message}})
            self.changed.notify_all()

    def until(self, holds, seconds=60):
        """Wait for something to hold; return what was sent so far."""
        with self.changed:
            assert self.changed.wait_for(lambda: holds(self), seconds), (self.waiting, self.sent)
            return list(self.sent)
