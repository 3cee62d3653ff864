"""A head that is known by others like it says the very same as when it is read alone."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from market.gateway.plain_heads import Heads

CHANNEL, ID, SIGNATURE = "11" * 32, "ab" * 32, "Cd" * 65
BODY = b'{"inputs":[]}'
MOST = 1 << 20


def whole(
    *, channel=CHANNEL, amount="7", signature=SIGNATURE, request_id=ID, model="tiny", more=(), body=BODY, **names
):
    lines = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        "Host: market",
        f"{names.get('voucher', 'Market-Voucher')}: 0x{channel};{amount};0x{signature}",
        f"{names.get('named', 'Market-Request-Id')}: 0x{request_id}",
        *more,
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


BASE = whole()


def said(heads, data):
    """What a request says, read by `heads`."""
    found = heads.find(data, data.find(b"\r\n\r\n") + 4)
    if found is None:
        return None
    head, voucher, request_id = found
    blank = replace(head.blank, voucher=None, request_id=None, received_at=0.0)
    return blank, voucher, request_id, head.path, head.header_length, head.body_bytes, head.forwarded, head.key_hash


def warm(*others):
    heads = Heads(MOST)
    for other in (BASE, *others):
        said(heads, other)
    return heads


def test_what_is_its_own_is_read_anew(monkeypatch):
    heads = warm()
    monkeypatch.setattr(heads, "_read", None)  # nothing is read from its beginning again
    _, voucher, request_id, *_ = said(heads, whole(amount="12", signature="01" * 65, request_id="00" * 32))
    assert (voucher.channel_id.hex(), voucher.cumulative_amount) == (CHANNEL, 12)
    assert (voucher.signature, request_id) == (b"\1" * 65, bytes(32))


def test_access_is_read_anew_too(monkeypatch):
    heads = warm()
    monkeypatch.setattr(heads, "_read", None)
    _, voucher, *_ = said(heads, whole(signature=f"{'01' * 65};0x{'02' * 65}"))
    assert (voucher.signature, voucher.access) == (b"\1" * 65, b"\2" * 65)
    assert said(heads, BASE)[1].access is None


OTHERS = {
    "with access": whole(signature=f"{SIGNATURE};0x{SIGNATURE}"),
    "access too short": whole(signature=f"{SIGNATURE};0x{SIGNATURE[2:]}"),
    "access missing": whole(signature=f"{SIGNATURE};"),
    "five parts": whole(signature=f"{SIGNATURE};0x{SIGNATURE};0x{SIGNATURE}"),
    "another channel": whole(channel="22" * 32),
    "another model": whole(model="other"),
    "upper case": whole(channel="AB" * 32, voucher="MARKET-VOUCHER", named="market-request-ID"),
    "voucher twice": whole(more=[f"Market-Voucher: 0x{CHANNEL};9;0x{SIGNATURE}"]),
    "id twice": whole(more=[f"market-request-id: 0x{ID}"]),
    "a price": whole(more=["Market-Max-Price: 5"]),
    "hedged": whole(more=["Market-Hedge: true"]),
    "traced": whole(more=["traceparent: 00-" + "1" * 32 + "-" + "2" * 16 + "-01"]),
    "another body": whole(body=b"{}"),
    "less body than said": BASE[:-1],
    "more body than said": BASE + b" ",
    "blank behind the id": BASE.replace(ID.encode(), ID.encode() + b" "),
    "tab in the voucher": BASE.replace(b";7;", b";\t7;"),
    "amount too large": whole(amount="9" * 19),
    "amount too long": whole(amount="1" * 20),
    "amount negative": whole(amount="-1"),
    "amount of other digits": whole(amount="٧"),
    "amount missing": whole(amount=""),
    "signature too short": whole(signature="Cd" * 64),
    "signature no hex": whole(signature="zz" * 65),
    "id too short": whole(request_id=ID[2:]),
    "id missing": whole(request_id=""),
    "cut to what they have in common": whole(amount="", signature="", request_id="").replace(b";;0x", b";"),
    "folded": BASE.replace(b";7;", b";7;\r\n "),
    "bare line feed": BASE.replace(b";7;", b";7;\n"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_what_is_not_quite_alike_is_read_as_if_alone(other):
    alone = said(Heads(MOST), other)
    heads = warm()
    assert said(heads, other) == alone
    assert said(heads, other) == alone  # and again, when it is known itself
    assert said(warm(*OTHERS.values()), other) == alone
    assert said(heads, BASE) == said(Heads(MOST), BASE)


@settings(max_examples=300)
@given(st.integers(0, len(BASE)), st.integers(0, 3), st.binary(max_size=3))
@example(BASE.index(b";7;") + 1, 1, b"8")
def test_no_change_of_a_few_bytes_is_taken_for_what_was_read(at, gone, put):
    other = BASE[:at] + put + BASE[at + gone :]
    assert said(warm(), other) == said(Heads(MOST), other)


def test_it_keeps_no_more_than_so_many():
    heads = Heads(MOST)
    for number in range(2_100):
        said(heads, whole(more=[f"User-Agent: {number}"]))
    assert len(heads._alike) == 2_048
    assert said(heads, BASE) == said(Heads(MOST), BASE)
