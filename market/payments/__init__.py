"""Payments: vouchers, channel accounts, reservations and the durable charge; knows no HTTP, no queue, no chain client."""
