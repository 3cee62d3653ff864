"""Where a gateway listens is written as a URL has it, and where it cannot is said."""

import socket

import pytest

from market.errors import ConfigurationError
from market.gateway.server import _address, _listen


def test_an_ipv6_address_stands_in_brackets():
    assert _address("::1", 8080) == "[::1]:8080"
    assert _address("127.0.0.1", 8080) == "127.0.0.1:8080"


@pytest.mark.parametrize("host", ["2001:db8::1", "203.0.113.1", "no such host"])
def test_where_it_cannot_listen_is_named(host):
    with pytest.raises(ConfigurationError) as refused:
        _listen(host, 0)
    assert refused.value.field == "MARKET_PORT"
    assert host in refused.value.detail


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigurationError) as refused:
        _listen("127.0.0.1", taken.getsockname()[1])
    assert "in use" in refused.value.detail
