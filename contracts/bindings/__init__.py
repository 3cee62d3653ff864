"""Typed access to the contracts: connection, calls, transactions, events, deployment. No market rules."""

import sys

import eth_keyfile  # noqa: F401

# py_ecc, which this imports, raises Python's recursion limit a hundredfold: deeply nested JSON of a stranger would then
# overflow the C stack and end the process instead of raising RecursionError. It does so once, when it is imported.
sys.setrecursionlimit(1_000)
