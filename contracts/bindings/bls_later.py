"""Keeps py_ecc's curves for BLS unloaded until somebody asks for them, and Python's recursion limit as it was.

eth_keyfile imports them for keystores of validators, which nobody here has; so do web3 and eth_account by way of it.
Their tables take half a second to compute, a third of what a command takes to start.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

RECURSION_LIMIT = 1_000
_CURVE_ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001


class _Later(ModuleType):
    """A module that is imported when something is asked of it that it was not given."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system's own questions
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


class _Signatures:
    """What eth_keyfile takes from `py_ecc.bls`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_real("py_ecc.bls").G2ProofOfPossession, name)


def _real(name: str) -> ModuleType:
    if isinstance(sys.modules.get(name), _Later):
        del sys.modules[name]
    return importlib.import_module(name)


def _put_off(name: str, **known: object) -> None:
    if name not in sys.modules:
        module = sys.modules[name] = _Later(name)
        vars(module).update(known)


def put_off() -> None:
    """Stand in for the curves from now on; of use if nothing has imported web3, eth_account or eth_keyfile before."""
    # It raises the limit a hundredfold, once: deeply nested JSON of a stranger would then overflow the C stack and end
    # the process instead of raising RecursionError.
    importlib.import_module("py_ecc")
    sys.setrecursionlimit(RECURSION_LIMIT)
    _put_off("py_ecc.bls", G2ProofOfPossession=_Signatures())
    _put_off("py_ecc.bls12_381", curve_order=_CURVE_ORDER)
