import functools
import logging
import os

import httpx
import pytest
import structlog

from market.devnet import services
from tests.support import postgres


def log_plainly():
    """Log as structlog does unless told otherwise, but write exceptions plainly: its way takes seconds for each."""
    structlog.reset_defaults()
    *others, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*others, plain])


log_plainly()


@pytest.fixture(scope="session", autouse=True)
def certificates():
    """Read the usual certificates once for all of httpx's calls: each would by itself, which takes 40 ms every time."""

    @functools.cache
    def made(trust_env, *named):
        return httpx.create_ssl_context(trust_env=trust_env)

    def context(*, verify=True, cert=None, trust_env=True):
        if verify is True and cert is None:
            return made(trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        return httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx._transports.default, "create_ssl_context", context)
        yield


@pytest.fixture(scope="session", autouse=True)
def database():
    """`make test-postgres`: markets that tests start in this process have PostgreSQL below them instead of SQLite."""
    if os.environ.get("MARKET_TEST_DATABASE") != "postgresql":
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "database_url", postgres.database_of)
        yield


@pytest.fixture(autouse=True)
def logging_as_before():
    """Take back what a command set up inside a test: its log would go on to a stream that pytest has closed."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    added = [handler for handler in root.handlers if type(handler) is logging.StreamHandler and handler not in before]
    if added:
        for handler in added:
            root.removeHandler(handler)
        root.setLevel(level)
        log_plainly()
        structlog.contextvars.clear_contextvars()
