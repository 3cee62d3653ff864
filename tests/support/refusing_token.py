"""A token that refuses transfers for a while, as real dollars can: paused for all, or an account blocked; by reverting, or
as older tokens do by answering false.

Puts code of its own at the token's address which refuses and otherwise delegates to the token's code, moved elsewhere;
balances stay where they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from contracts.protocol.hexes import checksum
from tests.support.chain import Chain

_MOVED_TO = b"\xee" * 20
_TRANSFER, _TRANSFER_FROM = bytes.fromhex("a9059cbb"), bytes.fromhex("23b872dd")
# EIP-3009: transfer and receive, by (v, r, s) and by bytes.
_AUTHORIZED = [bytes.fromhex(text) for text in ("e3ee160e", "cf092995", "ef55bec6", "88b7ab63")]


def _push(data: bytes) -> bytes:
    return bytes([0x5F + len(data)]) + data


def _is(selector: bytes) -> bytes:
    return _push(b"\x00") + b"\x35" + _push(b"\xe0") + b"\x1c" + _push(selector) + b"\x14"  # CALLDATALOAD, SHR, EQ


def _argument(position: int, account: bytes) -> bytes:
    return _push(bytes([4 + 32 * position])) + b"\x35" + _push(account) + b"\x14"


def _code(blocked: bytes | None, *, quietly: bool) -> bytes:
    if blocked is None:
        refused = _is(_TRANSFER) + b"".join(_is(one) + b"\x17" for one in (_TRANSFER_FROM, *_AUTHORIZED))  # OR
    else:
        sends_to = _is(_TRANSFER) + _argument(0, blocked) + b"\x16"  # AND
        moves = _is(_TRANSFER_FROM) + _argument(0, blocked) + _argument(1, blocked) + b"\x17\x16"
        refused = sends_to + moves + b"\x17"
    delegate = (
        b"\x36\x5f\x5f\x37"  # calldatacopy(0, 0, calldatasize)
         b"\x5f\x5f\x36\x5f" + _push(_MOVED_TO) + b"\x5a\xf4"  # delegatecall(gas, moved, 0, calldatasize, 0, 0)
        + b"\x3d\x5f\x5f\x3e"  # returndatacopy(0, 0, returndatasize)
    )  # fmt: skip
    # refused: jump to the end; the call went well: jump to the return, else hand its reason on
    head = refused + _push(b"\x00\x00") + b"\x57" + delegate + _push(b"\x00\x00") + b"\x57"
    code = head + b"\x3d\x5f\xfd"  # revert(0, returndatasize)
    good_at = len(code)
    code += b"\x5b\x3d\x5f\xf3"  # JUMPDEST return(0, returndatasize)
    bad_at = len(code)
    # JUMPDEST return(0, 32) of memory that nobody wrote to, or revert(0, 0)
    code += b"\x5b" + (_push(b"\x20") + b"\x5f\xf3" if quietly else b"\x5f\x5f\xfd")
    first = len(refused) + 1
    second = len(head) - 3
    patched = bytearray(code)
    patched[first : first + 2] = bad_at.to_bytes(2, "big")
    patched[second : second + 2] = good_at.to_bytes(2, "big")
    return bytes(patched)


@contextmanager
def refusing(chain: Chain, blocked: bytes | None = None, *, quietly: bool = False) -> Iterator[None]:
    """Let the token refuse transfers from and to `blocked`, or all of them; `quietly` it only answers false."""
    token = checksum(chain.deployment.token)
    original = str(chain.rpc("eth_getCode", token, "latest"))
    chain.rpc("anvil_setCode", checksum(_MOVED_TO), original)
    chain.rpc("anvil_setCode", token, "0x" + _code(blocked, quietly=quietly).hex())
    try:
        yield
    finally:
        chain.rpc("anvil_setCode", token, original)
