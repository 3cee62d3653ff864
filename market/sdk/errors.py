"""What a client of the market can meet.

CodedError
└── ClientError
    ├── GatewayRefused       the gateway answered with a problem; its code, retry and remedy are kept
    ├── GatewayUnreachable   no answer
    ├── UnusableAddress      what was named is no address; nothing was asked
    ├── GatewayMisbehaved    the answer breaks the protocol; what it proves is in the receipt store
    ├── ReceiptInvalid       a receipt does not hold against the chain
    ├── StreamOpen           a stream was not read to its end
    ├── SealingUnavailable   a request cannot be sealed to that worker, or not for that model
    └── SpendingLimit        the price is above what the caller allows
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contracts.protocol.errors import CodedError, Retry
from contracts.protocol.hexes import checksum
from contracts.protocol.money import format_amount


class ClientError(CodedError):
    """The client cannot go on."""

    code = "client-error"


class GatewayRefused(ClientError):
    """The gateway refused the request.

    `code`, `retry`, `field` and `remedy` are the gateway's; `required` is the cumulative amount a voucher must reach,
    in atomic units, where the gateway said it; `problem` is its whole document.
    """

    code = "gateway-refused"

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        detail = str(problem.get("detail") or problem.get("error") or f"status {status}")
        super().__init__(detail, field=_text(problem.get("field")), remedy=_text(problem.get("remedy")))
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("code") or "gateway-refused")  # type: ignore[misc]
        try:
            self.retry = Retry(str(problem.get("retry")))  # type: ignore[misc]
        except ValueError:
            self.retry = Retry.NEVER  # type: ignore[misc]
        required = problem.get("required")
        self.required = int(required) if isinstance(required, str) and required.isdecimal() else None


class GatewayUnreachable(ClientError):
    """The gateway does not answer."""

    code = "gateway-unreachable"
    retry = Retry.LATER


class UnusableAddress(ClientError):
    """The gateway's address, or the proxy on the way to it, is none."""

    code = "unusable-address"


class SealingUnavailable(ClientError):
    """A request cannot be sealed to that worker, to any, or for that model; nothing was sent."""

    code = "sealing-unavailable"


class GatewayMisbehaved(ClientError):
    """The gateway's answer breaks the protocol."""

    code = "gateway-misbehaved"


class ReceiptInvalid(ClientError):
    """A receipt cannot be read; `field` names what is wrong."""

    code = "receipt-invalid"


class StreamOpen(ClientError):
    """The stream was not read to its end, so there is no checked answer."""

    code = "stream-open"


class NotSettled(ClientError):
    """The receipt is not in a settlement yet."""

    code = "not-settled"
    retry = Retry.LATER


class SpendingLimit(ClientError):
    """The price is above what the caller allows."""

    code = "spending-limit"


class NotEnoughTokens(ClientError):
    """The account holds fewer tokens than the transaction takes."""

    code = "not-enough-tokens"

    def __init__(self, account: bytes, held: int, wanted: int) -> None:
        super().__init__(
            f"{checksum(account)} holds {format_amount(held)}, {format_amount(wanted)} are needed.",
            field="amount",
            remedy="Choose a smaller amount, or get tokens (`market mint` on test networks).",
        )


class NoChannel(ClientError):
    """No channel to this gateway is open or remembered."""

    code = "no-channel"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def check_limit(amount: int, limit: int) -> None:
    """Refuse a price above what the caller allows, atomic units.

    Raises:
        SpendingLimit: it is.
    """
    if amount > limit:
        raise SpendingLimit(
            f"the request costs {format_amount(amount)}, {format_amount(limit)} is allowed.",
            field="max_price",
            remedy="Allow more, or choose another model or worker.",
        )


def over_window(amount: int, window: int) -> SpendingLimit:
    """Return the refusal of a price above the window."""
    return SpendingLimit(
        f"the request costs {format_amount(amount)}, the window is {format_amount(window)}.",
        field="window",
        remedy="Choose a larger window.",
    )
