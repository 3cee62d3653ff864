"""`market serve` and `market jobs`: the gateway's two programs, configured by environment or file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from market.commands.output import errors_as_messages
from market.settings import load_settings
from market.telemetry import configure_logging, start_tracing

EnvFileOption = Annotated[
    Path | None, typer.Option("--env-file", envvar="MARKET_ENV_FILE", help="File with MARKET_… settings.")
]


def serve(
    env_file: EnvFileOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
) -> None:
    """Run the gateway: HTTP front, payments, dispatch."""
    with errors_as_messages():
        settings = load_settings(env_file, host=host, port=port)
        configure_logging(settings.log_level, settings.log_format, service="gateway")
        start_tracing("inference-gateway")
        from market.bootstrap.gateway import build_gateway
        from market.gateway.server import run

        run(build_gateway(settings))


def jobs(env_file: EnvFileOption = None) -> None:
    """Run the gateway's jobs: read the chain, settle, clean up."""
    with errors_as_messages():
        settings = load_settings(env_file)
        configure_logging(settings.log_level, settings.log_format, service="jobs")
        start_tracing("inference-jobs")
        from market.jobs import run

        run(settings)
