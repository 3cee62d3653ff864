"""A proxy that the environment names does not stand before this machine's own services."""

import os
import subprocess
import sys
import urllib.request

import httpx
import pytest

from contracts.protocol.own_machine import HOSTS, is_own, spare_proxy

OWN = [f"http://{f'[{host}]' if ':' in host else host}:8080/x" for host in HOSTS]


@pytest.mark.parametrize("url", OWN)
def test_own_addresses_are_known(url):
    assert is_own(url)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1.example", "https://gateway.example", "127.0.0.1:8080", "http://10.0.0.1", "http://[::1", ""],
)
def test_others_are_not(url):
    assert not is_own(url)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "a.example, localhost"}, "a.example,localhost,127.0.0.1,::1"),
        ({"no_proxy": "a.example", "NO_PROXY": "b.example"}, "a.example,127.0.0.1,localhost,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_what_was_spared_before_still_is(before, after):
    environment = dict(before)
    spare_proxy(environment)
    spare_proxy(environment)
    assert environment == {"no_proxy": after, "NO_PROXY": after}


def test_httpx_and_urllib_ask_no_proxy_for_them(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    spared: dict[str, str] = {}
    spare_proxy(spared)
    for name, value in spared.items():
        monkeypatch.setenv(name, value)
    with httpx.Client() as client:
        for url in OWN:
            assert client._transport_for_url(httpx.URL(url)) is client._transport
            assert urllib.request.proxy_bypass(httpx.URL(url).host)
        assert client._transport_for_url(httpx.URL("http://a.example")) is not client._transport


@pytest.mark.parametrize("program", ["market", "workers"])
def test_both_programs_begin_with_it(program):
    code = f"import os, sys\nsys.argv = ['x', '--help']\nfrom {program}.cli import main\n"
    code += "try: main()\nfinally: print(os.environ['no_proxy'])"
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert told.stdout.splitlines()[-1] == ",".join(HOSTS)
