"""The root of every error in the project, and the errors of the protocol itself.

    CodedError
    ├── ProtocolError            what was signed, hashed or encoded is wrong
    │   ├── InvalidHex · InvalidAddress · InvalidAmount
    │   ├── SignatureError
    │   ├── TensorError          (name, shape, datatype, data)
    │   ├── ManifestError
    │   └── MessageError
    ├── ChainError               contracts.bindings.errors
    ├── MarketError              market.errors
    └── WorkerError              workers.errors

A code is stable: programs may switch on it, documents list it. `retry` tells who may usefully try again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Retry(StrEnum):
    """Whether the same request may succeed later, and where."""

    NEVER = "never"
    SAME = "same"
    OTHER_WORKER = "other_worker"
    LATER = "later"


class CodedError(Exception):
    """An error with a stable code, the field it is about and what to do about it."""

    code: ClassVar[str] = "error"
    retry: ClassVar[Retry] = Retry.NEVER

    def __init__(self, detail: str, *, field: str | None = None, remedy: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.remedy = remedy

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        mend = f" {self.remedy}" if self.remedy else ""
        return f"{where}{self.detail}{mend}"


class ProtocolError(CodedError):
    """What was signed, hashed or encoded breaks the protocol."""

    code = "protocol"


class InvalidHex(ProtocolError):
    """A text is not the 0x-hex of the expected length."""

    code = "invalid-hex"


class InvalidAmount(ProtocolError):
    """A text is not an amount of money this token can hold."""

    code = "invalid-amount"


class SignatureError(ProtocolError):
    """A signature is malformed, malleable, or recovers to nobody."""

    code = "malformed-signature"


class FieldRangeError(ProtocolError):
    """A number does not fit the integer type it is signed as."""

    code = "field-range"


class TensorError(ProtocolError):
    """A tensor's name, shape, datatype or bytes are wrong; `field` names which."""

    code = "tensor"


class ManifestError(ProtocolError):
    """A model package's manifest is malformed or contradicts itself."""

    code = "manifest"


class MessageError(ProtocolError):
    """A queue message cannot be decoded or has fields of the wrong type."""

    code = "message"
