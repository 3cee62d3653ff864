"""Payments: vouchers, channel accounts, reservations, the durable charge; knows no HTTP, queue or chain client."""
