"""Packages over HTTP from servers that are slow, redirect, lie about sizes, or lie inside the worker's network."""

import gzip
import http.server
import os
import socket
import ssl
import threading
import time

import pytest

from tests.support import worker as support
from tests.support.certificates import self_signed
from workers.errors import ModelHashMismatch, PackageUnavailable
from workers.models import over_http
from workers.models.store import PackageStore


class Server(http.server.BaseHTTPRequestHandler):
    """Serves the folder of its class, in the way of its class."""

    folder, way, asked = None, "plain", []

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.asked.append(self.path)
        path = self.folder / self.path.lstrip("/")
        if self.way == "redirect":
            self.send_response(302)
            self.send_header("Location", f"http://{self.headers['Host']}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        if self.way == "longer" and path.suffix == ".onnx":
            data += b"\0" * (1 << 20)
        self.send_response(200)
        if self.way == "zipped":
            data = gzip.compress(data)
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        try:
            for start in range(0, len(data), 64) if self.way == "slow" else [0]:
                self.wfile.write(data[start:] if self.way != "slow" else data[start : start + 64])
                self.wfile.flush()
                time.sleep(0.02 if self.way == "slow" else 0)
        except OSError:
            pass


@pytest.fixture
def server(tmp_path):
    class Mine(Server):
        folder, way, asked = tmp_path / "source", "plain", []

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    yield Mine, f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.fixture
def store(tmp_path):
    return PackageStore(tmp_path / "cache", allow_file_uri=False, max_package_bytes=1 << 20, allow_private_hosts=True)


@pytest.fixture
def manifest(tmp_path):
    return support.write_package(tmp_path / "source")


def test_a_package_is_taken_over_http(store, server, manifest):
    assert store.get(manifest.model_id, server[1]).read("model.onnx")


def test_a_redirect_is_not_followed(store, server, manifest):
    server[0].way = "redirect"
    with pytest.raises(PackageUnavailable, match="redirects"):
        store.get(manifest.model_id, server[1])
    assert server[0].asked == ["/manifest.json"]


def test_of_a_file_that_is_longer_than_it_should_be_no_more_is_read(store, server, manifest, tmp_path):
    server[0].way = "longer"
    with pytest.raises(ModelHashMismatch, match="longer"):
        store.get(manifest.model_id, server[1])
    assert not list((tmp_path / "cache").iterdir())


def test_nothing_is_decompressed(store, server, manifest):
    server[0].way = "zipped"
    with pytest.raises(ModelHashMismatch):
        store.get(manifest.model_id, server[1])


def test_a_server_that_trickles_is_left(store, server, manifest, monkeypatch):
    monkeypatch.setattr(over_http, "PATIENCE_SECONDS", 0.05)
    server[0].way = "slow"
    with pytest.raises(PackageUnavailable, match="bytes a second"):
        store.get(manifest.model_id, server[1])


def test_a_package_that_is_not_there_is_said(store, server, manifest, tmp_path):
    (tmp_path / "source" / "model.onnx").unlink()
    with pytest.raises(PackageUnavailable, match="404"):
        store.get(manifest.model_id, server[1])


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1/m",
        "http://localhost:1/m",
        "http://[::1]:1/m",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/m",
        "http://192.168.1.1/m",
        "http://[::ffff:127.0.0.1]/m",
        "http://[64:ff9b::10.0.0.1]/m",  # by a translator of addresses
        "http://[fe80::1]/m",
        "http://0.0.0.0/m",
        "http://2130706433/m",  # 127.0.0.1 as one number
        "http://224.0.0.1/m",
        "http:///m",
        "http://[::1/m",
        "http://host.invalid/m",
    ],
)
def test_an_owner_cannot_send_a_worker_into_its_own_network(tmp_path, address):
    strict = PackageStore(tmp_path / "cache", allow_file_uri=False, max_package_bytes=1 << 20)
    with pytest.raises(PackageUnavailable, match=r"inside this machine or its network|not known|no address"):
        strict.get(b"\1" * 32, address)
    assert not any((tmp_path / "cache").glob("*/*"))


class Names:
    """Looks names up as an owner's own server answers: another address each time it is asked."""

    def __init__(self, monkeypatch, *answers):
        self._real, self._answers, self.asked = socket.getaddrinfo, list(answers), []
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host, port, *more, **named):
        name = host.decode() if isinstance(host, bytes) else host
        if name == "models.example":
            self.asked.append(name)
            name = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return self._real(name, port, *more, **named)


def test_what_a_name_means_later_leads_nowhere_else(tmp_path, server, manifest, monkeypatch):
    """A name that was public when it was looked at, and is this machine when it is connected to."""
    monkeypatch.setattr(over_http, "TIMEOUT_SECONDS", 0.3)
    Names(monkeypatch, "192.88.99.1", "127.0.0.1")
    monkeypatch.setattr(over_http, "_is_inside", lambda host: str(host) == "127.0.0.1")
    strict = PackageStore(tmp_path / "cache", allow_file_uri=False, max_package_bytes=1 << 20)
    with pytest.raises(PackageUnavailable):
        strict.get(manifest.model_id, server[1].replace("127.0.0.1", "models.example"))
    assert server[0].asked == []


@pytest.fixture
def https(tmp_path, monkeypatch):
    certificate = self_signed(tmp_path, "models.example")

    class Mine(Server):
        folder, way, asked, hosts = tmp_path / "source", "plain", [], []

        def do_GET(self):
            self.hosts.append(self.headers["Host"])
            super().do_GET()

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, tmp_path / "server.key")
    running.socket = context.wrap_socket(running.socket, server_side=True)
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(over_http, "_is_inside", lambda _: False)
    yield Mine, running.server_port
    running.shutdown()
    running.server_close()


def test_a_connection_by_number_is_still_to_the_name(tmp_path, https, manifest, monkeypatch):
    served, port = https
    names = Names(monkeypatch, "127.0.0.1")
    strict = PackageStore(tmp_path / "cache", allow_file_uri=False, max_package_bytes=1 << 20)
    assert strict.get(manifest.model_id, f"https://models.example:{port}/").read("model.onnx")
    assert set(served.hosts) == {f"models.example:{port}"}
    assert names.asked == ["models.example"]
    with pytest.raises(PackageUnavailable, match="ConnectError"):  # the certificate is of another name
        strict.look(b"\1" * 32, f"https://localhost:{port}/")


def test_what_a_killed_worker_had_begun_to_fetch_is_removed(tmp_path, store, server, manifest):
    """Many gigabytes each time that the power fails."""
    cache = tmp_path / "cache"
    old, new = [cache / f"fetching-{name}" / "package" for name in ("old", "new")]
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(bytes(100))
    for path in (old / "model.onnx", old, old.parent, new, new.parent):
        os.utime(path, (time.time() - 4_000,) * 2)
    store.get(manifest.model_id, server[1])
    assert sorted(path.name for path in cache.iterdir()) == sorted(["fetching-new", manifest.model_id.hex()])
