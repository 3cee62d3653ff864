"""Typed access to the contracts: connection, calls, transactions, events, deployment. No market rules."""
