"""Turning charges into one transaction for everybody: what goes into a batch, sending it, proving what was in it."""
