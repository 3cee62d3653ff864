"""Listens for gRPC beside the HTTP server, in the same process and event loop.

Decides the limits of a connection. Started and stopped with the application.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import structlog

from market.bootstrap.gateway import GatewayRuntime
from market.errors import ConfigurationError
from market.gateway.grpc.service import InferenceServicer

log = structlog.get_logger(__name__)

_GRACE_SECONDS = 10.0
_CONCURRENT_CALLS = 4_096
# Who does not speak HTTP/2, and a connection without calls, is shown out; clients open another by themselves.
_HANDSHAKE_SECONDS = 10.0
_IDLE_SECONDS = 300.0
# A message holds names and lengths beside the tensors.
_OVERHEAD_BYTES = 64 * 1024


@asynccontextmanager
async def serve_grpc(joined: GatewayRuntime) -> AsyncIterator[int | None]:
    """Serve while the body runs; yields the port, None where the setting leaves gRPC out.

    Raises:
        ConfigurationError: the port cannot be listened on.
    """
    settings = joined.settings
    if settings.grpc_port is None:
        yield None
        return
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", settings.max_body_bytes + _OVERHEAD_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            ("grpc.server_handshake_timeout_ms", round(1_000 * _HANDSHAKE_SECONDS)),
            ("grpc.max_connection_idle_ms", round(1_000 * _IDLE_SECONDS)),
        ),
        maximum_concurrent_rpcs=_CONCURRENT_CALLS,
    )
    server.add_generic_rpc_handlers((InferenceServicer(joined).handlers(),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        port = server.add_insecure_port(f"{host}:{settings.grpc_port}")
    except RuntimeError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{settings.grpc_port}.",
            field="MARKET_GRPC_PORT",
            remedy="Stop the program that has the port, or set MARKET_GRPC_PORT; 0 takes a free one.",
        ) from error
    await server.start()
    log.info("listening-grpc", address=f"{host}:{port}")
    try:
        yield port
    finally:
        await server.stop(_GRACE_SECONDS)
