"""Paying by x402: clients that know nothing of this market's channels pay by the protocol's standard schemes."""
