"""Addresses and proxies that the client kit is given."""

import asyncio
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typer.testing import CliRunner

from market.cli import app
from market.sdk.aio import AsyncMarket
from market.sdk.client import Market
from market.sdk.errors import GatewayUnreachable, UnusableAddress
from market.sdk.reaching import certificates

PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gateway():
    class Status(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"path": self.path}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Status) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "zzz://x"])
def test_no_proxy_stands_before_a_gateway_on_this_machine(gateway, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("ALL_PROXY", proxy)
    with Market(gateway, retries=0) as market:
        assert market.get("/status") == {"path": "/status"}

    async def ask():
        async with AsyncMarket(gateway, retries=0) as market:
            return await market.get("/status")

    assert asyncio.run(ask()) == {"path": "/status"}


def test_certificates_are_read_where_they_count():
    assert certificates("https://127.0.0.1:8443") is True
    assert certificates("http://gateway.example") is True
    nobody = certificates("http://127.0.0.1:8080")
    assert nobody.get_ca_certs() == []
    assert nobody.verify_mode is ssl.CERT_REQUIRED
    assert nobody.check_hostname


def test_it_stands_before_others(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Market("http://gateway.example", retries=0) as market, pytest.raises(GatewayUnreachable):
        market.get("/status")


@pytest.mark.parametrize("proxy", ["zzz://x", "::bad"])
def test_a_proxy_that_is_none_is_named(monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(UnusableAddress) as refused:
        Market("https://gateway.example")
    assert refused.value.field == "proxy"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080",
        "127.0.0.1:8080",
        "ws://gateway.example",
        "http://",
        "http://[::1",
        "http://127.0.0.1:abc",
        "http://127.0.0.1:99999",
        "http://a..b",
        "http://" + "a" * 300 + ".example",
    ],
)
def test_what_is_no_address_is_said_at_once(url):
    with pytest.raises(UnusableAddress) as refused:
        Market(url)
    assert refused.value.field == "url"
    with pytest.raises(UnusableAddress):
        AsyncMarket(url)
    if url:
        told = CliRunner().invoke(app, ["status", "--url", url, "--json"])
        assert json.loads(told.stdout)["error"]["code"] == "unusable-address"
