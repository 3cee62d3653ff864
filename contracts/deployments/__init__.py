"""Addresses of deployed contracts, one `<chain id>.json` per chain; see README.md for the format and the order."""
