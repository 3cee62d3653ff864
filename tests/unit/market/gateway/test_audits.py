"""What the gateway shows of audits, what `market audits` and `worker doctor` make of it, and the pardon."""

import asyncio
import json
import time
from contextlib import contextmanager

import httpx
import pytest
from typer.testing import CliRunner

from contracts.protocol.hexes import checksum, hex0x
from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from market.bootstrap import audits as joining
from market.cli import app
from market.commands import audits as command
from market.inference.audit_model import Counted
from tests.support.audits import Audited, join_workers
from tests.support.gateway import app_of
from tests.support.money import DOMAIN
from workers.commands import findings
from workers.errors import Convicted, GatewayNotReady


@pytest.fixture
async def made(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/audits.db")
    upgrade(engine)
    audited = Audited(engine)
    audited.workers = await join_workers(audited.world, cheat=lambda _x, y: y * 2, one=None, two=None)
    await audited.begin()
    await audited.world.service.infer(audited.world.request())
    await audited.settle()
    await audited.book.count(Counted({}, {audited.workers["one"].key.address: 7}))
    yield audited
    engine.dispose()


@pytest.fixture
async def http(made):
    transport = httpx.ASGITransport(app_of(made.world, audit_book=made.book))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


def cheat_of(made) -> str:
    return checksum(made.workers["cheat"].key.address)


async def test_evidence_is_public_and_holds(made, http):
    (row,) = (await http.get("/market/v1/audits")).json()
    assert row == (await http.get(f"/market/v1/audits/{row['number']}")).json()
    assert (row["outcome"], row["against"]) == ("convicted", cheat_of(made))
    assert row["error"] == pytest.approx(0.5)
    assert len({one["receipt"]["outputHash"] for one in row["statements"]}) == 2
    secrets = (await http.get("/market/v1/audits/secrets")).json()
    assert command.check(row, secrets, DOMAIN) == {
        "every receipt is signed by its worker": True,
        "all were asked the same": True,
        "the request was chosen by the secret": None,
    }
    (kept,) = await made.book.secrets(time.time() + 3 * 3_600)
    shown = [{**secrets[0], "secret": hex0x(kept.secret)}]
    assert command.check(row, shown, DOMAIN)["the request was chosen by the secret"] is True
    forged = {
        **row,
        "statements": [{**row["statements"][0], "workerSignature": row["statements"][1]["workerSignature"]}],
    }
    assert command.check(forged, shown, DOMAIN)["every receipt is signed by its worker"] is False
    other = [{**shown[0], "secret": hex0x(b"\1" * 32)}]
    assert command.check(row, other, DOMAIN)["the request was chosen by the secret"] is False
    assert False in command.check({"statements": []}, [], DOMAIN).values()


async def test_audits_of_one_worker_and_from_a_number_on(made, http):
    one, number = cheat_of(made), (await http.get("/market/v1/audits")).json()[0]["number"]
    assert len((await http.get("/market/v1/audits", params={"worker": one})).json()) == 1
    assert (await http.get("/market/v1/audits", params={"before": number})).json() == []
    assert (await http.get("/market/v1/audits", params={"worker": checksum(b"\1" * 20)})).json() == []
    for path in ("/market/v1/audits?worker=0x12", "/market/v1/audits/0", "/market/v1/audits?limit=0"):
        assert (await http.get(path)).status_code == 400, path
    missing = await http.get("/market/v1/audits/999")
    assert (missing.status_code, missing.json()["code"]) == (404, "audit-not-found")


async def test_workers_and_their_standing(made, http):
    rows = {row["worker"]: row for row in (await http.get("/market/v1/audits/workers")).json()}
    assert rows[cheat_of(made)]["conviction"] == 1
    assert rows[checksum(made.workers["one"].key.address)]["agreed"] == 7


class Gateway:
    """As much of the client kit's `Market` as the command asks of."""

    def __init__(self, http):
        self._http = http

    def get(self, path):
        answer = asyncio.run(_get(self._http, path))
        answer.raise_for_status()
        return answer.json()

    def status(self):
        return {"chainId": DOMAIN.chain_id, "escrow": checksum(DOMAIN.escrow)}


async def _get(app_, path):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app_), base_url="http://gateway") as client:
        return await client.get(path)


@pytest.fixture
def run(made, monkeypatch):
    served = app_of(made.world, audit_book=made.book)

    @contextmanager
    def market(_profile):
        yield Gateway(served)

    @contextmanager
    def book(_settings):
        yield made.book

    monkeypatch.setattr(command.Profile, "market", market)
    monkeypatch.setattr(joining, "open_audit_book", book)

    async def invoke(*arguments):
        return await asyncio.to_thread(CliRunner().invoke, app, list(arguments))

    return invoke


async def test_the_command_lists_and_shows(made, run):
    listed = await run("audits", "list")
    assert listed.exit_code == 0, listed.output
    assert "convicted" in listed.output
    data = json.loads((await run("audits", "list", "--worker", cheat_of(made), "--json")).stdout)
    assert [one["number"] for one in data["audits"]] == [1]
    shown = await run("audits", "show", "1")
    assert shown.exit_code == 0, shown.output
    assert "unknown yet" in shown.output
    checks = json.loads((await run("audits", "show", "1", "--json")).stdout)["checks"]
    assert list(checks.values()) == [True, True, None]


async def test_the_operator_pardons_once(made, run):
    done = await run("audits", "pardon", cheat_of(made))
    assert done.exit_code == 0, done.output
    again = await run("audits", "pardon", cheat_of(made), "--json")
    assert json.loads(again.stdout)["error"]["code"] == "audit-not-found"
    assert again.exit_code == 1


async def test_a_worker_learns_of_it(made, monkeypatch):
    served = app_of(made.world, audit_book=made.book)

    def get(url, timeout):
        answer = asyncio.run(_get(served, url.removeprefix("http://gateway")))
        answer.request = httpx.Request("GET", url)
        return answer

    monkeypatch.setattr(findings.httpx, "get", get)
    ask = asyncio.to_thread
    with pytest.raises(Convicted, match="audit 1"):
        await ask(findings.audits, "http://gateway/", made.workers["cheat"].key.address)
    assert "7 passed" in await ask(findings.audits, "http://gateway", made.workers["one"].key.address)
    assert "0 passed" in await ask(findings.audits, "http://gateway", b"\1" * 20)
    with pytest.raises(GatewayNotReady):
        await ask(findings.audits, "http://gateway/nowhere", b"\1" * 20)
