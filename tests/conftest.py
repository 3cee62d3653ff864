import logging

import pytest
import structlog


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
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
