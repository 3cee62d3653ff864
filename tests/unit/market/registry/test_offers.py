import time
from dataclasses import replace

import pytest

from contracts.protocol.hashing import sha256
from contracts.protocol.manifest import Manifest
from contracts.protocol.messages import ANNOUNCE_TTL_SECONDS
from contracts.protocol.pricing import Unit
from contracts.protocol.sealing import WorkersKey
from market.errors import RedisUnreachable
from market.registry.offers import LiveOffers
from tests.support.money import DOMAIN, FEE_PPM, GATEWAY, SIGNER, World, manifest


async def world_with(**changes) -> tuple[World, object]:
    """One worker whose announcement is replaced by one with a changed offer."""
    world = World()
    worker = await world.add_worker("w1")
    world.announcements.current = [world.announcement(worker, **changes)]
    await world.offers.refresh()
    return world, worker


def shown(world: World) -> list[bytes]:
    return [live.offer.worker for live in world.offers.offers(world.model.model_id)]


async def test_sound_offer_is_shown():
    world, worker = await world_with()
    assert shown(world) == [worker.key.address]
    assert world.offers.is_live(worker.key.address)
    assert world.offers.workers() == [worker.key.address]
    assert world.offers.max_batch(worker.key.address, world.model.model_id) == 8
    assert world.offers.max_batch(b"\x01" * 20, world.model.model_id) == 1
    assert world.offers.manifest(world.model.model_id) == world.model
    assert world.offers.announcement(worker.key.address).provider == "cpu"
    [quote] = world.offers.quotes(world.model.model_id)
    assert (quote.unit, quote.unit_price) == (Unit.ROW, 100)


@pytest.mark.parametrize(
    "changes",
    [
        {"unit_price": 0},
        {"unit_price": 10_001},
        {"max_fee_ppm": FEE_PPM - 1},
        {"gateway": b"\x01" * 20},
        {"worker": b"\x02" * 20},
        {"model_id": b"\x03" * 32},
        {"expires_at": int(time.time()) - 1},
        {"expires_at": int(time.time()) + 2},
    ],
)
async def test_offer_outside_the_terms_is_not_shown(changes):
    world, _ = await world_with(**changes)
    assert shown(world) == []


async def test_offer_signed_by_another_is_not_shown():
    world, _ = await world_with()
    announcement = world.announcements.current[0]
    (offer, _) = announcement.offers[0]
    forged = (replace(offer, unit_price=1), SIGNER.sign_digest(replace(offer, unit_price=1).digest(DOMAIN)))
    world.announcements.current = [replace(announcement, offers=(forged,), at=announcement.at + 1)]
    await world.offers.refresh()
    assert shown(world) == []


async def test_chain_has_the_last_word_at_every_refresh():
    world, worker = await world_with()
    record = world.registry.records[worker.key.address]
    world.registry.records[worker.key.address] = replace(record, active=False)
    await world.offers.refresh()
    assert shown(world) == []
    world.registry.records[worker.key.address] = record
    world.registry.by_id[world.model.model_id] = replace(world.listing, active=False)
    await world.offers.refresh()
    assert shown(world) == []
    world.registry.by_id[world.model.model_id] = replace(world.listing, unit=int(Unit.TOKEN))
    await world.offers.refresh()
    assert shown(world) == []
    world.registry.by_id[world.model.model_id] = replace(world.listing, royalty_ppm=1_000_000)
    await world.offers.refresh()
    assert shown(world) == []


async def test_a_manifest_that_is_none_is_read_once(monkeypatch):
    """It may have a megabyte, and comes every two seconds."""
    world = World()
    await world.add_worker("w1")
    bad = b'{"format": 1}'
    model_id = sha256(bad)
    world.registry.by_id[model_id] = replace(world.listing, model_id=model_id, name="bad")
    read = []
    parse = Manifest.parse
    monkeypatch.setattr(Manifest, "parse", lambda data: read.append(data) or parse(data))
    (announcement,) = world.announcements.current
    for turn in range(1, 4):
        again = replace(announcement, manifests=(*announcement.manifests, bad), at=announcement.at + turn)
        world.announcements.current = [again]
        await world.offers.refresh()
    assert read == [bad]
    assert world.offers.manifest(model_id) is None


async def test_manifest_must_hash_to_the_listing():
    world = World()
    worker = await world.add_worker("w1")
    fresh = World()
    fresh.registry.records = world.registry.records
    announcement = world.announcement(worker)
    other = manifest(unit=Unit.REQUEST).to_bytes()
    fresh.announcements.current = [replace(announcement, manifests=(other, b"{}"))]
    await fresh.offers.refresh()
    assert shown(fresh) == []
    assert fresh.offers.manifest(fresh.model.model_id) is None


async def test_worker_that_falls_silent_is_gone_and_comes_back():
    world = World()
    worker = await world.add_worker("w1")
    now = 100.0
    offers = LiveOffers(
        announcements=world.announcements,
        registry=world.registry,
        domain=DOMAIN,
        gateway=GATEWAY.address,
        fee_ppm=FEE_PPM,
        clock=lambda: now,
    )
    await offers.refresh()
    assert offers.offers(world.model.model_id)
    now += ANNOUNCE_TTL_SECONDS + 0.1
    await offers.refresh()  # the same announcement again: the worker's own clock proves nothing
    assert not offers.offers(world.model.model_id)
    assert offers.announcement(worker.key.address) is None
    world.announcements.current = [world.announcement(worker)]
    await offers.refresh()
    assert offers.offers(world.model.model_id)


async def test_a_start_is_seen_once_though_a_nodes_processes_announce_by_turns():
    world, worker = await world_with()

    async def start(process):
        worker.process = process
        world.announcements.current = [world.announcement(worker)]
        await world.offers.refresh()
        (live,) = world.offers.offers(world.model.model_id)
        return live.start

    first = await start(b"process1")
    second = await start(b"process2")
    assert second > first, "a second process of the node, or a start"
    assert [await start(process) for process in (b"process1", b"process2") * 3] == [second] * 6
    assert await start(b"process3") > second


async def test_view_outlives_a_short_absence_of_redis():
    world, worker = await world_with()

    async def away():
        raise RedisUnreachable

    world.announcements.read = away
    with pytest.raises(RedisUnreachable):
        await world.offers.refresh()
    assert shown(world) == [worker.key.address]


async def test_a_sealing_key_is_shown_with_its_workers_signature_only():
    world = World()
    worker = await world.add_worker("w1")
    [quote] = world.offers.quotes(world.model.model_id)
    assert quote.sealing == b""
    signed = WorkersKey(worker.key).signed(DOMAIN)
    for sealing, shown_as in (
        (signed, signed),
        (WorkersKey(SIGNER).signed(DOMAIN), b""),
        (b"short", b""),
        (signed, signed),
    ):
        world.announcements.current = [replace(world.announcement(worker), sealing=sealing)]
        await world.offers.refresh()
        [quote] = world.offers.quotes(world.model.model_id)
        assert quote.sealing == shown_as
