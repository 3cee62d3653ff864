"""The marketplace: gateway, registry index, payments, settlement, client kit and the local network."""
