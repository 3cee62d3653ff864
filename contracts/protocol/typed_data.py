"""EIP-712 structs of the market, each a frozen dataclass whose `digest(domain)` the contracts compute too.

Every field is declared once, with its Solidity type; type string, range check, struct hash and the compact wire form
follow from that. Domain: name `InferenceEscrow`, version `1`, chain id, escrow address.
Mirrored by `contracts/src/libraries`; pinned by `tests/parity/vectors.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

from contracts.protocol.errors import FieldRangeError
from contracts.protocol.hashing import keccak256
from contracts.protocol.values import value_class

DOMAIN_NAME = "InferenceEscrow"
DOMAIN_VERSION = "1"
_DOMAIN_TYPE = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
# "acc", the upper three bytes of a channel's salt; below them 40 bits are left to be random.
ACCESS_MARK = 0x616363
ACCESS_MARK_SHIFT = 40
_WIDTH = {"bytes32": 32, "address": 20, "uint128": 16, "uint64": 8, "uint32": 4}


@dataclass(frozen=True)
class Domain:
    """Where signatures are valid: one escrow on one chain."""

    chain_id: int
    escrow: bytes

    @cached_property
    def separator(self) -> bytes:
        """The 32-byte EIP-712 domain separator."""
        return keccak256(
            keccak256(_DOMAIN_TYPE)
            + keccak256(DOMAIN_NAME.encode())
            + keccak256(DOMAIN_VERSION.encode())
            + self.chain_id.to_bytes(32, "big")
            + self.escrow.rjust(32, b"\0")
        )

    @cached_property
    def prefix(self) -> bytes:
        """`0x1901 ‖ separator`, what every digest starts with."""
        return b"\x19\x01" + self.separator


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _encode(value: Any, solidity: str, name: str) -> bytes:
    width = _WIDTH[solidity]
    if solidity.startswith("uint"):
        if not isinstance(value, int) or not 0 <= value < 1 << (8 * width):
            raise FieldRangeError(f"{value!r} does not fit {solidity}.", field=name)
        return value.to_bytes(32, "big")
    if not isinstance(value, bytes) or len(value) != width:
        raise FieldRangeError(f"expected {width} bytes for {solidity}.", field=name)
    return value.rjust(32, b"\0")


def _compiled(cls: Any) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any], Callable[[Any], bytes]]:
    """Write the encoder of `struct_hash`, the decoder of `from_bytes` and `to_bytes` out field by field.

    As dataclasses do: all stand in the path of every request, and a loop over the fields takes three times as long. The
    encoder raises anything at all where a value does not fit; the loop then says what.
    """
    loads, checks, words, wire, narrow, offset = [], [], ["head"], [], [], 0
    for index, (name, kind) in enumerate(cls.FIELDS):
        width = _WIDTH[kind]
        loads.append(f"v{index} = self.{name}")
        part = f"data[{offset}:{offset + width}]"
        offset += width
        if kind.startswith("uint"):
            words.append(f"zeros[{width}] + v{index}.to_bytes({width}, 'big')")
            narrow.append(f"self.{name}.to_bytes({width}, 'big')")
            wire.append(f"number({part}, 'big')")
        else:
            checks.append(f"len(v{index}) != {width} or type(v{index}) is not bytes")
            words.append(f"v{index}" if width == 32 else f"zeros[{width}] + v{index}")
            narrow.append(f"self.{name}")
            wire.append(part)
    lines = ["def encode(self):", *(f"    {load}" for load in loads)]
    lines += [f"    if {' or '.join(checks)}: raise ValueError"] if checks else []
    lines += [f"    return join(({', '.join(words)}))", f"def decode(data): return cls({', '.join(wire)})"]
    lines += [f"def write(self): return join(({', '.join(narrow)},))"]
    scope: dict[str, Any] = {
        "head": cls.TYPE_HASH,
        "zeros": {width: bytes(32 - width) for width in _WIDTH.values()},
        "join": b"".join,
        "number": int.from_bytes,
        "cls": cls,
    }
    exec("\n".join(lines), scope)  # noqa: S102 - built from the field names above, nothing from outside
    return scope["encode"], scope["decode"], scope["write"]


class TypedStruct:
    """Base of the structs; subclasses give `SOLIDITY`, the types of their fields in order."""

    SOLIDITY: ClassVar[tuple[str, ...]]
    FIELDS: ClassVar[tuple[tuple[str, str], ...]]
    TYPE: ClassVar[str]
    TYPE_HASH: ClassVar[bytes]
    WIRE_BYTES: ClassVar[int]
    ENCODE: ClassVar[Callable[[Any], bytes]]
    DECODE: ClassVar[Callable[[bytes], Any]]
    WRITE: ClassVar[Callable[[Any], bytes]]
    __slots__ = ()

    def struct_hash(self) -> bytes:
        """Hash the struct as EIP-712 `hashStruct`; 32 bytes.

        Raises:
            FieldRangeError: a field does not fit its Solidity type.
        """
        cls = type(self)
        try:
            return keccak256(cls.ENCODE(self))
        except (ValueError, TypeError, AttributeError, OverflowError):
            words = [_encode(getattr(self, name), kind, name) for name, kind in self.FIELDS]
            return keccak256(self.TYPE_HASH + b"".join(words))

    def digest(self, domain: Domain) -> bytes:
        """Return the 32 bytes that are signed under `domain`.

        Raises:
            FieldRangeError: a field does not fit its Solidity type.
        """
        return keccak256(domain.prefix + self.struct_hash())

    def to_bytes(self) -> bytes:
        """Concatenate the fields at their natural widths, big endian; `WIRE_BYTES` long."""
        return type(self).WRITE(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            FieldRangeError: wrong length.
        """
        if len(data) != cls.WIRE_BYTES:
            raise FieldRangeError(f"{cls.__name__} takes {cls.WIRE_BYTES} bytes, not {len(data)}.")
        found: Self = cls.DECODE(data)
        return found

    def to_json(self) -> dict[str, str]:
        """Return camelCase fields: bytes as 0x-hex, integers as decimal strings."""
        out: dict[str, str] = {}
        for name, _ in self.FIELDS:
            value = getattr(self, name)
            out[_camel(name)] = "0x" + value.hex() if isinstance(value, bytes) else str(value)
        return out

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            FieldRangeError: a field is missing or malformed.
        """
        values: dict[str, bytes | int] = {}
        for name, kind in cls.FIELDS:
            try:
                text = str(data[_camel(name)])
                values[name] = int(text) if kind.startswith("uint") else bytes.fromhex(text.removeprefix("0x"))
            except (KeyError, ValueError) as error:
                raise FieldRangeError(f"missing or malformed {kind}.", field=_camel(name)) from error
            _encode(values[name], kind, _camel(name))
        return cls(**values)


_T = TypeVar("_T", bound=type)


@dataclass_transform(frozen_default=True)
def _typed(*solidity: str) -> Callable[[_T], _T]:
    def wrap(cls: _T) -> _T:
        made: Any = value_class(frozen=True, slots=True)(cls)
        names = list(made.__dataclass_fields__)
        made.FIELDS = tuple(zip(names, solidity, strict=True))
        made.TYPE = f"{made.__name__}({','.join(f'{kind} {_camel(name)}' for name, kind in made.FIELDS)})"
        made.TYPE_HASH = keccak256(made.TYPE.encode())
        made.WIRE_BYTES = sum(_WIDTH[kind] for kind in solidity)
        made.ENCODE, made.DECODE, made.WRITE = (staticmethod(one) for one in _compiled(made))
        return made  # type: ignore[no-any-return]

    return wrap


@_typed("address", "address", "address", "uint64")
class Channel(TypedStruct):
    """Who pays whom under which key; its digest is the channel id.

    A salt that begins with `ACCESS_MARK` says that nobody is served from the channel without `ChannelAccess`.
    """

    payer: bytes
    signer: bytes
    gateway: bytes
    salt: int

    @property
    def needs_access(self) -> bool:
        """Whether a voucher alone pays for nothing: others than its signer come to have it."""
        return self.salt >> ACCESS_MARK_SHIFT == ACCESS_MARK


@_typed("bytes32")
class ChannelAccess(TypedStruct):
    """The channel's signer shows the gateway that it asks: sent beside a voucher, and to the gateway alone."""

    channel_id: bytes


@_typed("bytes32", "uint128")
class Voucher(TypedStruct):
    """The channel signer's promise: the gateway may charge up to `cumulative_amount` in all."""

    channel_id: bytes
    cumulative_amount: int


@_typed(
    "bytes32",
    "bytes32",
    "address",
    "address",
    "uint64",
    "address",
    "bytes32",
    "bytes32",
    "bytes32",
    "uint128",
    "uint128",
    "uint128",
    "uint128",
    "uint64",
)
class Receipt(TypedStruct):
    """One served request: signed by the worker, countersigned by the gateway over the same digest.

    `seq` numbers the channel's reservations (gaps are released requests); `cumulative` is the channel's charge up to
    and including this one; `served_at` is unix seconds by the worker's clock.
    """

    request_id: bytes
    channel_id: bytes
    payer: bytes
    gateway: bytes
    seq: int
    worker: bytes
    model_id: bytes
    input_hash: bytes
    output_hash: bytes
    price: int
    worker_amount: int
    owner_amount: int
    cumulative: int
    served_at: int


@_typed("bytes32")
class ReceiptBatch(TypedStruct):
    """Many receipts signed at once: `root` is that of a Merkle tree of their digests, see `receipts`."""

    root: bytes


@_typed("address", "address", "uint128")
class CreditNote(TypedStruct):
    """The gateway's promise to a payee: it owes `cumulative_amount` in all since the beginning."""

    gateway: bytes
    payee: bytes
    cumulative_amount: int


@_typed("bytes32", "uint64", "uint128")
class Refund(TypedStruct):
    """The gateway's consent to give `amount` of a channel's deposit back at once."""

    channel_id: bytes
    nonce: int
    amount: int


@_typed("address", "address", "uint64")
class WorkerSession(TypedStruct):
    """A worker lets `session_key` act for it until `expiry`, unix seconds."""

    worker: bytes
    session_key: bytes
    expiry: int


@_typed("address", "bytes32", "address", "uint128", "uint32", "uint64")
class Offer(TypedStruct):
    """A worker's price per unit for a model at one gateway, valid until `expires_at`, unix seconds."""

    worker: bytes
    model_id: bytes
    gateway: bytes
    unit_price: int
    max_fee_ppm: int
    expires_at: int


@_typed("address", "address", "uint64")
class WorkerConsent(TypedStruct):
    """A worker key agrees to be registered by `operator` until `deadline`, unix seconds."""

    operator: bytes
    worker: bytes
    deadline: int


@_typed("address", "uint64", "bytes32", "uint32", "bytes32", "bytes32")
class SettleBatch(TypedStruct):
    """A gateway lets anybody submit one settlement batch; the two hashes commit to its rows."""

    gateway: bytes
    epoch: int
    receipts_root: bytes
    count: int
    debits_hash: bytes
    credits_hash: bytes


@_typed("bytes32", "bytes32", "uint128", "uint64", "bytes32")
class KeyGrant(TypedStruct):
    """The channel's signer lets whoever has the key of this hash spend up to `spending_limit` of the channel.

    `expires_at` is unix seconds, 0 for never; `terms_hash` covers name and allowed models, see `capability`.
    """

    channel_id: bytes
    key_hash: bytes
    spending_limit: int
    expires_at: int
    terms_hash: bytes


@_typed("bytes32", "bytes32")
class KeyRevocation(TypedStruct):
    """The channel's signer ends a key for good."""

    channel_id: bytes
    key_hash: bytes


@_typed("bytes32", "uint64")
class KeyListing(TypedStruct):
    """The channel's signer asks which keys there are; good for a few minutes after `issued_at`, unix seconds."""

    channel_id: bytes
    issued_at: int


@_typed("address", "bytes32")
class SealingKey(TypedStruct):
    """A worker's X25519 public key, to which clients seal what the gateway shall not read; see `sealing`."""

    worker: bytes
    key: bytes


# Those that contracts or several languages compute; a sealing key is a matter of clients and workers.
STRUCTS: tuple[type[TypedStruct], ...] = (
    Channel,
    Voucher,
    Receipt,
    ReceiptBatch,
    CreditNote,
    Refund,
    WorkerSession,
    Offer,
    WorkerConsent,
    SettleBatch,
    KeyGrant,
    KeyRevocation,
    KeyListing,
    ChannelAccess,
)
