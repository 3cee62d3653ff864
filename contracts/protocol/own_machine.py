"""Which addresses of the web are this machine itself, and that no proxy stands before those.

Called by every program as it starts, by the client kit and where a node or gateway beside us is treated differently.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from urllib.parse import urlsplit

HOSTS = ("127.0.0.1", "localhost", "::1")


def is_own(url: str) -> bool:
    """Tell whether a URL leads to this machine by one of its own names; False for what is no URL."""
    try:
        return urlsplit(url).hostname in HOSTS
    except ValueError:
        return False


def spare_proxy(environment: MutableMapping[str, str]) -> None:
    """Have nothing that reads `environment`, a child process included, ask a proxy for this machine's own services."""
    spared = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name.strip() for name in spared.split(",") if name.strip()]
    if "*" not in names:
        names += [host for host in HOSTS if host not in names]
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(names)
