"""Sealed requests as the gateway sees them: inputs and outputs that only the client and one worker can read.

On the wire such a request is one UINT8 tensor called `sealed` and the parameter `sealed_units`, the most units that the
client pays for, so that a gateway can price and bound what it cannot read; the worker compares. The answer is one such
tensor, too. Sizes, times, model, worker and price stay in sight. A worker announces the key that requests are sealed
to, signed by the key that signs its receipts. `sealing` does the sealing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contracts.protocol.errors import SignatureError, TensorError
from contracts.protocol.signing import SIGNATURE_BYTES, recover
from contracts.protocol.typed_data import Domain, SealingKey

TENSOR = "sealed"
UNITS = "sealed_units"
MAX_UNITS = 2**31 - 1
KEY_BYTES = 32
# What is announced: the key and the worker's signature of it.
SIGNED_KEY_BYTES = KEY_BYTES + SIGNATURE_BYTES


def is_sealed(parameters: Mapping[str, Any]) -> bool:
    """Tell whether a request's parameters say that it is sealed."""
    return UNITS in parameters


def declared_units(parameters: Mapping[str, Any]) -> int:
    """Return the most units that the client of a sealed request pays for.

    Raises:
        TensorError: not a whole number from 1 to 2,147,483,647.
    """
    units = parameters[UNITS]
    if type(units) is not int or not 1 <= units <= MAX_UNITS:
        remedy = f"Give a whole number from 1 to {MAX_UNITS}."
        raise TensorError(f"{UNITS} is {units!r:.80}.", field=UNITS, remedy=remedy)
    return units


def key_of(signed: bytes, worker: bytes, domain: Domain) -> bytes | None:
    """Return the sealing key that a worker announced, None if its signature is not the worker's."""
    public, signature = signed[:KEY_BYTES], signed[KEY_BYTES:]
    if len(signed) != SIGNED_KEY_BYTES:
        return None
    try:
        genuine = recover(SealingKey(worker, public).digest(domain), signature) == worker
    except SignatureError:
        return None
    return public if genuine else None
