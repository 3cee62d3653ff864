"""Every error as RFC 9457 `application/problem+json`: the one place where an error class gets an HTTP status.

Decides status, body and headers of refusals. It never shows a stack trace and never answers a fault of ours with
402, which would make paying clients pay again. Called by the routes and the application's exception handlers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from contracts.protocol.errors import CodedError, ProtocolError, Retry
from market import errors

STATUS: Mapping[type[CodedError], int] = {
    errors.InvalidRequest: 400,
    errors.UnknownModel: 404,
    errors.WrongTensorName: 400,
    errors.WrongTensorShape: 400,
    errors.WrongTensorType: 400,
    errors.TensorData: 400,
    errors.PayloadTooLarge: 413,
    errors.HeadersTooLarge: 431,
    errors.PriceAboveLimit: 400,
    errors.RequestIdReused: 409,
    errors.RequestInProgress: 409,
    errors.ReceiptNotFound: 404,
    errors.AuditNotFound: 404,
    errors.ChannelNotFound: 404,
    errors.UnknownPage: 404,
    errors.InvalidKey: 401,
    errors.AccessError: 403,
    errors.TooManyFailures: 429,
    errors.KeyExists: 409,
    errors.KeyNotFound: 404,
    errors.TooManyKeys: 409,
    errors.ChainReadRefused: 403,
    errors.RequestError: 400,
    errors.InvalidVoucher: 400,
    errors.PaymentError: 402,
    errors.Overloaded: 429,
    errors.TooManyRequests: 429,
    errors.CapacityError: 503,
    errors.DeadlineExceeded: 504,
    errors.OutOfMemory: 413,
    errors.OutOfTime: 413,
    errors.WorkerFault: 502,
    errors.ChainUnreachable: 503,
    errors.RedisUnreachable: 503,
    errors.DatabaseUnreachable: 503,
    errors.WrongNetwork: 503,
    errors.HouseShort: 503,
    errors.PaymentUndecided: 503,
    errors.NothingToRefund: 404,
    errors.RefundNotSigned: 403,
    errors.RefundOutOfStep: 409,
    errors.RefundNotFree: 409,
    errors.NoX402: 404,
    errors.OperationError: 500,
    ProtocolError: 400,
}
INTERNAL_STATUS = 500
RETRY_AFTER_SECONDS = 1
MEDIA_TYPE = "application/problem+json"


def status_of(error: type[CodedError]) -> int:
    """Return the HTTP status of an error class: its own, else its nearest listed base's, else 500."""
    return next((STATUS[base] for base in error.__mro__ if base in STATUS), INTERNAL_STATUS)


def title_of(error: type[CodedError]) -> str:
    """Return the short human name of an error class."""
    return (error.__doc__ or error.__name__).strip().splitlines()[0].rstrip(".")


def all_errors(base: type[CodedError] = CodedError) -> Iterator[type[CodedError]]:
    """Yield every imported error class below `base`, each once."""
    seen: set[type[CodedError]] = set()
    waiting = list(base.__subclasses__())
    while waiting:
        found = waiting.pop()
        if found not in seen:
            seen.add(found)
            yield found
            waiting.extend(found.__subclasses__())


def problem_body(error: CodedError, *, status: int | None = None) -> dict[str, Any]:
    """Return the members of the problem document; `error` repeats the detail for OIP clients, which read it.

    `status` replaces the one that the error has by its kind.
    """
    body: dict[str, Any] = {
        "type": f"/errors/{error.code}",
        "title": title_of(type(error)),
        "status": status_of(type(error)) if status is None else status,
        "detail": error.detail,
        "code": error.code,
        "retry": str(error.retry),
        "error": f"{error.field}: {error.detail}" if error.field else error.detail,
    }
    if error.field is not None:
        body["field"] = error.field
    if error.remedy is not None:
        body["remedy"] = error.remedy
    if isinstance(error, errors.PaymentError):
        if error.required is not None:
            body["required"] = str(error.required)
        body.update(error.terms)
    return body


def problem_response(error: CodedError, *, status: int | None = None) -> Response:
    """Turn an error into its response; `status` replaces the one that it has by its kind."""
    body = problem_body(error, status=status)
    headers = problem_headers(error, body["status"])
    return Response(orjson.dumps(body), status_code=body["status"], media_type=MEDIA_TYPE, headers=headers)


def response_bytes(response: Response, more: bytes) -> bytes:
    """Write a response as a whole HTTP/1.1 message; `more` are header lines that it has beside its own."""
    lines = b"".join(b"%s: %s\r\n" % pair for pair in response.raw_headers)
    return b"".join((STATUS_LINE[response.status_code], more, lines, b"\r\n", bytes(response.body)))


def problem_headers(error: CodedError, status: int) -> dict[str, str]:
    """Return what a refusal's headers say beside its body."""
    headers: dict[str, str] = {}
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if isinstance(error, errors.MarketError):
        headers.update(error.headers)
    return headers


class InternalError(CodedError):
    """The gateway failed; nothing is charged for an answer that was not given."""

    code = "internal-error"
    retry = Retry.LATER


def internal_error() -> InternalError:
    """Return what is said of a fault of our own; what happened is in the log only."""
    return InternalError(
        "the gateway failed.", remedy="Tell the operator the time of this answer; send it again later."
    )


def internal_response() -> Response:
    """Return the answer to a fault of our own."""
    return problem_response(internal_error())
