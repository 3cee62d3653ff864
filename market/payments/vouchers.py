"""Reads the Market-Voucher header and checks its signatures against the channel's signer.

Decides whether a voucher is genuine; never whether it is enough. Called by the HTTP gateway and by `authorize`.
"""

from __future__ import annotations

from typing import TypeVar

from contracts.protocol.errors import InvalidHex, SignatureError
from contracts.protocol.hexes import from_hex
from contracts.protocol.signing import SIGNATURE_BYTES, recover
from contracts.protocol.typed_data import ChannelAccess, Domain, TypedStruct, Voucher
from market.errors import AccessNeeded, InvalidSignature, InvalidVoucher
from market.payments.model import ParsedVoucher

_HEADER = "Market-Voucher"
MAX_CUMULATIVE = 2**63 - 1
_MAX_DIGITS = 19
_T = TypeVar("_T")


def parse_voucher(header: str) -> ParsedVoucher:
    """Read `<channel id 0x…>;<cumulative>;<signature 0x…>`, and behind it `;<access 0x…>` where there is one.

    Raises:
        InvalidVoucher: neither three parts nor four, not hex, or an amount above 2**63 - 1.
    """
    parts = header.split(";")
    if not 3 <= len(parts) <= 4:
        raise InvalidVoucher(f"{len(parts)} parts separated by ';' where there are three or four.", field=_HEADER)
    channel, amount, signature, *more = (part.strip() for part in parts)
    try:
        channel_id = from_hex(channel, 32, field="channel id")
        signed = from_hex(signature, SIGNATURE_BYTES, field="signature")
        access = from_hex(more[0], SIGNATURE_BYTES, field="access") if more else None
    except InvalidHex as error:
        raise InvalidVoucher(f"{error.field}: {error.detail}", field=_HEADER) from error
    if not (amount.isascii() and amount.isdigit() and len(amount) <= _MAX_DIGITS) or int(amount) > MAX_CUMULATIVE:
        raise InvalidVoucher("cumulative: expected a whole number of at most 2**63 - 1.", field=_HEADER)
    return ParsedVoucher(channel_id, int(amount), signed, access)


class VoucherVerifier:
    """Checks the signatures of vouchers and remembers the newest genuine ones of each channel.

    A client that signs ahead sends the same voucher many times; only the first costs an elliptic curve operation, and
    so with what shows its access. The memory is bounded: the channel verified longest ago is forgotten first.
    """

    def __init__(self, domain: Domain, *, remembered_channels: int = 100_000) -> None:
        self._domain = domain
        self._remembered_channels = remembered_channels
        self._newest: dict[bytes, tuple[int, bytes, bytes]] = {}
        self._access: dict[bytes, tuple[bytes, bytes]] = {}

    def verify(self, voucher: ParsedVoucher, signer: bytes) -> None:
        """Return if `signer` signed the voucher.

        Raises:
            InvalidSignature: it did not.
        """
        key = (voucher.cumulative_amount, voucher.signature, signer)
        if self._newest.get(voucher.channel_id) == key:
            return
        signed = Voucher(voucher.channel_id, voucher.cumulative_amount)
        if not self._is_signed(signed, voucher.signature, signer):
            raise InvalidSignature(field=_HEADER)
        self._remember(self._newest, voucher.channel_id, key)

    def verify_access(self, voucher: ParsedVoucher, signer: bytes) -> None:
        """Return if who sends the voucher shows that `signer` lets it spend from the channel.

        Raises:
            AccessNeeded: it shows nothing.
            InvalidSignature: `signer` did not sign it.
        """
        access = voucher.access
        if access is None:
            raise AccessNeeded(field=_HEADER)
        key = (access, signer)
        if self._access.get(voucher.channel_id) == key:
            return
        if not self._is_signed(ChannelAccess(voucher.channel_id), access, signer):
            raise InvalidSignature(
                "its fourth part is not ChannelAccess(channelId) by the channel's signer.",
                field=_HEADER,
                remedy=AccessNeeded.default_remedy,
            )
        self._remember(self._access, voucher.channel_id, key)

    def _is_signed(self, statement: TypedStruct, signature: bytes, signer: bytes) -> bool:
        try:
            return recover(statement.digest(self._domain), signature) == signer
        except SignatureError as error:
            raise InvalidSignature(error.detail, field=_HEADER) from error

    def _remember(self, kept: dict[bytes, _T], channel_id: bytes, key: _T) -> None:
        kept.pop(channel_id, None)
        kept[channel_id] = key
        if len(kept) > self._remembered_channels:
            del kept[next(iter(kept))]
