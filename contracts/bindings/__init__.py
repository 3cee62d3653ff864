"""Typed access to the contracts: connection, calls, transactions, events, deployment. No market rules."""

from contracts.bindings.bls_later import put_off

put_off()
