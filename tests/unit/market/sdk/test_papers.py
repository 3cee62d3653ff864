"""Papers: a channel is known before money goes to it, and channels of other contracts are not taken for it."""

from dataclasses import replace

from contracts.protocol.typed_data import Channel, Domain
from market.sdk.papers import PaperStore

DOMAIN = Domain(31_337, b"\x05" * 20)
PAYER, GATEWAY = b"\x01" * 20, b"\x02" * 20


def channel(salt: int) -> Channel:
    return Channel(PAYER, PAYER, GATEWAY, salt)


def test_what_was_being_opened_is_gone_on_with_until_it_is_kept(tmp_path):
    largest = 2**64 - 1
    for salt in (largest, 2, 3):
        papers = PaperStore(tmp_path / "papers.db")  # a crash in between
        assert papers.opening(channel(salt), DOMAIN) == channel(largest)
        assert papers.channels() == []
        papers.close()
    papers = PaperStore(tmp_path / "papers.db")
    papers.keep_channel(channel(largest), DOMAIN)
    assert papers.opening(channel(4), DOMAIN) == channel(4)
    papers.keep_channel(channel(9), DOMAIN)
    assert papers.opening(channel(5), DOMAIN) == channel(4), "another channel is kept, this one is still being opened"


def test_each_chain_escrow_and_gateway_opens_its_own():
    papers = PaperStore(None)
    elsewhere = (Domain(1, DOMAIN.escrow), Domain(DOMAIN.chain_id, b"\x06" * 20))
    assert papers.opening(channel(1), DOMAIN) == channel(1)
    for salt, domain in enumerate(elsewhere, 2):
        assert papers.opening(channel(salt), domain) == channel(salt)
    other = replace(channel(7), gateway=b"\x03" * 20)
    assert papers.opening(other, DOMAIN) == other


def test_channels_of_other_contracts_are_told_apart():
    papers = PaperStore(None)
    papers.keep_channel(channel(1), DOMAIN, opened_at=1.0)
    papers.keep_channel(channel(1), replace(DOMAIN, chain_id=1), opened_at=2.0)
    assert [kept.domain for kept in papers.channels()] == [replace(DOMAIN, chain_id=1), DOMAIN]
    assert [kept.domain for kept in papers.channels(domain=DOMAIN)] == [DOMAIN]
    assert papers.channels(domain=replace(DOMAIN, escrow=b"\x06" * 20)) == []
