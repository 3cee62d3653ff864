"""Reads the Market-Voucher header and checks its signature against the channel's signer.

Decides whether a voucher is genuine; never whether it is enough. Called by the HTTP gateway and by `authorize`.
"""

from __future__ import annotations

from contracts.protocol.errors import InvalidHex, SignatureError
from contracts.protocol.hexes import from_hex
from contracts.protocol.signing import SIGNATURE_BYTES, recover
from contracts.protocol.typed_data import Domain, Voucher
from market.errors import InvalidSignature, InvalidVoucher
from market.payments.model import ParsedVoucher

MAX_CUMULATIVE = 2**63 - 1
_MAX_DIGITS = 19


def parse_voucher(header: str) -> ParsedVoucher:
    """Read `<channel id 0x…>;<cumulative>;<signature 0x…>`.

    Raises:
        InvalidVoucher: not three parts, not hex, or an amount above 2**63 - 1.
    """
    parts = header.split(";")
    if len(parts) != 3:
        raise InvalidVoucher(f"{len(parts)} parts separated by ';' where there are three.", field="Market-Voucher")
    channel, amount, signature = (part.strip() for part in parts)
    try:
        channel_id = from_hex(channel, 32, field="channel id")
        signed = from_hex(signature, SIGNATURE_BYTES, field="signature")
    except InvalidHex as error:
        raise InvalidVoucher(f"{error.field}: {error.detail}", field="Market-Voucher") from error
    if not (amount.isascii() and amount.isdigit() and len(amount) <= _MAX_DIGITS) or int(amount) > MAX_CUMULATIVE:
        raise InvalidVoucher("cumulative: expected a whole number of at most 2**63 - 1.", field="Market-Voucher")
    return ParsedVoucher(channel_id, int(amount), signed)


class VoucherVerifier:
    """Checks voucher signatures and remembers the newest genuine one of each channel.

    A client that signs ahead sends the same voucher many times; only the first costs an elliptic curve operation. The
    memory is bounded: the channel verified longest ago is forgotten first.
    """

    def __init__(self, domain: Domain, *, remembered_channels: int = 100_000) -> None:
        self._domain = domain
        self._remembered_channels = remembered_channels
        self._newest: dict[bytes, tuple[int, bytes, bytes]] = {}

    def verify(self, voucher: ParsedVoucher, signer: bytes) -> None:
        """Return if `signer` signed the voucher.

        Raises:
            InvalidSignature: it did not.
        """
        key = (voucher.cumulative_amount, voucher.signature, signer)
        if self._newest.get(voucher.channel_id) == key:
            return
        digest = Voucher(voucher.channel_id, voucher.cumulative_amount).digest(self._domain)
        try:
            genuine = recover(digest, voucher.signature) == signer
        except SignatureError as error:
            raise InvalidSignature(error.detail, field="Market-Voucher") from error
        if not genuine:
            raise InvalidSignature(field="Market-Voucher")
        self._newest.pop(voucher.channel_id, None)
        self._newest[voucher.channel_id] = key
        if len(self._newest) > self._remembered_channels:
            del self._newest[next(iter(self._newest))]
