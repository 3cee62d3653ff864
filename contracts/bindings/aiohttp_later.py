"""Lets a program load web3 without aiohttp, of which web3 makes its asynchronous clients; no program here has one.

To load it takes a quarter of a second, a tenth of a program's start and more of a command's. Whoever else imports
aiohttp in the same process gets the real one. For our own programs only: an `AsyncHTTPProvider` would not try again.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# What web3 names of it: in annotations and to make them, and to catch.
_MADE, _CAUGHT = ("ClientResponse", "ClientSession", "ClientTimeout", "TCPConnector"), "ClientError"


class _StandIn(ModuleType):
    """What `aiohttp` is while web3 is loaded."""

    def __init__(self) -> None:
        super().__init__("aiohttp")
        vars(self).update({name: _later(name) for name in _MADE} | {_CAUGHT: type(_CAUGHT, (Exception,), {})})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system's own questions
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module("aiohttp"), name)

    def leave(self) -> None:
        """Make way for the real one."""
        if sys.modules.get("aiohttp") is self:
            del sys.modules["aiohttp"]


def _later(name: str) -> type:
    def make(_: type, *arguments: Any, **options: Any) -> Any:
        return getattr(importlib.import_module("aiohttp"), name)(*arguments, **options)

    return type(name, (), {"__new__": make})


class _Loading(Loader):
    """Loads web3 as its own loader does, with the stand-in there until it is loaded."""

    def __init__(self, own: Loader) -> None:
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._own
        stand_in = sys.modules["aiohttp"] = _StandIn()
        try:
            self._own.exec_module(module)
        finally:
            stand_in.leave()


class _Finder(MetaPathFinder):
    """Finds web3 where it is, once."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        del path, target
        if name != "web3":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None and "aiohttp" not in sys.modules:
            spec.loader = _Loading(spec.loader)
        return spec


def put_off() -> None:
    """Stand in for aiohttp when web3 is loaded; of use if nothing has loaded either before."""
    if "web3" not in sys.modules:
        sys.meta_path.insert(0, _Finder())
