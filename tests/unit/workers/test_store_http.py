"""Packages over HTTP from servers that are slow, redirect, lie about sizes, or lie inside the worker's network."""

import gzip
import http.server
import threading
import time

import pytest

from tests.support import worker as support
from workers.errors import ModelHashMismatch, PackageUnavailable
from workers.models import store as stores
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
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 0.05)
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
