from types import SimpleNamespace

import pytest

from contracts.protocol.hashing import sha256
from contracts.protocol.hexes import checksum
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Domain
from contracts.redis_url import celery_url
from workers.errors import GatewayNotReady, StartError
from workers.link import node
from workers.settings import WorkerSettings

GATEWAY = b"\x0a" * 20
SIDE = SimpleNamespace(key=PrivateKey(sha256(b"w")), domain=Domain(31_337, b"\xee" * 20))


class Status:
    def __init__(self, **changes) -> None:
        self.said = {"gateway": checksum(GATEWAY), "escrow": checksum(b"\xee" * 20), "chainId": 31_337, **changes}

    def raise_for_status(self):
        return self

    def json(self):
        return self.said


def answers(monkeypatch, status) -> None:
    def get(url, **_):
        if isinstance(status, Exception):
            raise status
        return status

    monkeypatch.setattr(node.httpx, "get", get)


@pytest.mark.parametrize(
    "url", ["gateway.example", "ftp://gateway.example", "https://gateway.example/path", "https://"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(StartError):
        node.find_gateway(WorkerSettings(), url, SIDE)


def test_inputs_are_not_sent_across_a_network_in_the_clear_by_mistake(monkeypatch):
    answers(monkeypatch, Status())
    with pytest.raises(StartError, match="in the clear"):
        node.find_gateway(WorkerSettings(), "http://gateway.example", SIDE)
    assert node.find_gateway(WorkerSettings(), "http://127.0.0.1:8080", SIDE) == GATEWAY
    assert node.find_gateway(WorkerSettings(allow_plain_link=True), "http://gateway.example", SIDE) == GATEWAY


def test_another_gateway_than_the_settings_name_is_refused(monkeypatch):
    answers(monkeypatch, Status())
    settings = WorkerSettings(gateways=checksum(b"\x0b" * 20))
    with pytest.raises(GatewayNotReady, match="does not name"):
        node.find_gateway(settings, "https://gateway.example", SIDE)


def test_a_gateway_of_another_escrow_or_chain_is_refused(monkeypatch):
    for changes in ({"escrow": checksum(b"\xdd" * 20)}, {"chainId": 1}):
        answers(monkeypatch, Status(**changes))
        with pytest.raises(GatewayNotReady, match="settles on"):
            node.find_gateway(WorkerSettings(), "https://gateway.example", SIDE)


def test_a_gateway_that_is_away_is_waited_for_if_its_address_is_known(monkeypatch):
    answers(monkeypatch, node.httpx.ConnectError("away"))
    with pytest.raises(GatewayNotReady):
        node.find_gateway(WorkerSettings(), "https://gateway.example", SIDE)
    known = WorkerSettings(gateways=checksum(GATEWAY))
    assert node.find_gateway(known, "https://gateway.example", SIDE) == GATEWAY


def test_celery_has_its_own_way_to_write_a_unix_socket():
    assert celery_url("redis://h:1/0") == "redis://h:1/0"
    assert celery_url("unix:///tmp/b.sock?db=0") == "redis+socket:///tmp/b.sock?virtual_host=0"
