"""Runs the application under uvicorn: uvloop, httptools, one process.

Decides the server's limits and what is printed when it listens. Called by `market serve`.
"""

from __future__ import annotations

import gc
import socket
import ssl
import sys
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from contracts.protocol.link import PING_SECONDS, PING_TIMEOUT_SECONDS
from contracts.protocol.link_frames import MAX_FRAME_BYTES
from market.bootstrap.gateway import GatewayRuntime
from market.errors import ConfigurationError
from market.gateway.app import create_app
from market.gateway.connection import Connection, ConnectionLimits
from market.gateway.cors import with_cors
from market.gateway.infer_http import InferPath
from market.gateway.link import LinkPath
from market.gateway.plain_http import PlainHttp

log = structlog.get_logger(__name__)

_KEEP_ALIVE_SECONDS = 30
_SHUTDOWN_SECONDS = 10
_BODY_GRACE_SECONDS = 2
_FRAME_OVERHEAD_BYTES = 256
# The kernel takes no more of an answer than this ahead of what the network takes: whoever stops reading a stream pays
# for what the kernel took, which by itself would be megabytes.
_UNSENT_BYTES = 131_072
_GC_THRESHOLDS = (50_000, 50, 50)
# The ledger's thread needs the interpreter lock some ten times a commit, and a busy event loop lets go of it only when
# asked this long after; Python's own 5 ms would be most of a request's time.
_SWITCH_SECONDS = 0.001


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            # What lives now lives for ever: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)
            sys.setswitchinterval(_SWITCH_SECONDS)
            for server in self.servers:
                for listener in server.sockets:
                    host, port, *_ = listener.getsockname()
                    scheme = "https" if self.config.is_ssl else "http"
                    log.info("listening", url=f"{scheme}://{_address(host, port)}")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def run(runtime: GatewayRuntime) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are finished first.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    settings = runtime.settings
    listener = _listen(settings.host, settings.port)
    options: dict[str, Any] = {
        "loop": "uvloop",
        "ws": "websockets-sansio",
        "ws_max_size": MAX_FRAME_BYTES + _FRAME_OVERHEAD_BYTES,
        "ws_ping_interval": PING_SECONDS,
        "ws_ping_timeout": PING_TIMEOUT_SECONDS,
        "ws_per_message_deflate": False,
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "timeout_keep_alive": _KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": _SHUTDOWN_SECONDS,
    }
    routes = create_app(runtime)
    plain = PlainHttp(runtime, runtime.plain)
    path = InferPath(routes if runtime.links is None else LinkPath(routes, runtime.links), runtime, plain)
    app = with_cors(path, settings)
    http = partial(
        Connection,
        path,
        ConnectionLimits(
            header_seconds=settings.header_timeout_seconds,
            # The routes refuse a late body with words; this is for those that read none.
            body_seconds=settings.body_timeout_seconds + _BODY_GRACE_SECONDS,
            most=settings.max_connections,
            most_by_address=settings.max_connections_by_address or settings.max_connections,
        ),
    )
    if settings.tls_certificate is not None:
        options |= _tls(settings.tls_certificate, settings.tls_key)
    with listener:
        _Server(uvicorn.Config(app, http=http, **options)).run(sockets=[listener])  # type: ignore[arg-type]


def _tls(certificate: Path, key: Path | None) -> dict[str, Any]:
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the certificate {certificate} cannot be used: {error.strerror or error}.",
            field="MARKET_TLS_CERTIFICATE",
            remedy="Name a PEM file with the certificate and its chain, and its key in MARKET_TLS_KEY.",
        ) from error
    return {"ssl_certfile": str(certificate), "ssl_keyfile": None if key is None else str(key)}


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # Linux and the BSDs; connections inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {_address(host, port)}: {error.strerror}.",
            field="MARKET_PORT",
            remedy="Stop the program that has the port, or set MARKET_HOST and MARKET_PORT.",
        ) from error
    return listener
