"""The endpoint that the x402 clients pay for: the market's own model, two sentences a request."""

import pytest

from tests.clients.x402.shop import Shop


@pytest.fixture(scope="session")
def shop(running, sentences) -> Shop:
    inputs = [
        {"name": name, "datatype": "INT64", "shape": list(array.shape), "data": array.flatten().tolist()}
        for name, array in sentences.items()
    ]
    return Shop(running.local, {"inputs": inputs})
