"""Refusals in OpenAI's shape, with this market's stable codes.

Decides nothing about status: that is `market.gateway.problems`'. Called by the application's error handlers and by
streams, for every path below /v1/.
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from contracts.protocol.errors import CodedError
from market import errors
from market.gateway.problems import problem_body, problem_headers

PREFIX = "/v1/"
_TYPES = {
    401: "authentication_error",
    402: "payment_required",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_object(error: CodedError, *, status: int | None = None) -> dict[str, Any]:
    """Return the `error` member: what OpenAI's clients read, and beside it who may retry and what to do."""
    problem = problem_body(error)
    status = problem["status"] if status is None else status
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    found: dict[str, Any] = {
        # With the parameter's name: programs show this member alone.
        "message": str(error),
        "type": kind,
        "param": error.field,
        "code": error.code,
        "retry": str(error.retry),
    }
    if error.remedy is not None:
        found["remedy"] = error.remedy
    return found


def error_response(error: CodedError, *, status: int | None = None) -> Response:
    """Turn an error into its response; a 402 also says what to pay to whom."""
    body: dict[str, Any] = {"error": error_object(error, status=status)}
    if isinstance(error, errors.PaymentError):
        if error.required is not None:
            body["required"] = str(error.required)
        body.update({name: value for name, value in error.terms.items() if name != "error"})
    status = problem_body(error)["status"] if status is None else status
    return Response(
        orjson.dumps(body), status_code=status, media_type="application/json", headers=problem_headers(error, status)
    )
