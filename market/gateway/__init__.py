"""The HTTP front: Open Inference Protocol v2 with payment, and the market's own read API."""
