import secrets
import time

import pytest

from contracts.protocol.messages import Job
from contracts.protocol.typed_data import Channel


@pytest.fixture
def link_job():
    def make(**changes) -> Job:
        fields = {
            "request_id": secrets.token_bytes(32),
            "attempt": "0",
            "channel": Channel(b"\x01" * 20, b"\x02" * 20, b"\x03" * 20, 0),
            "seq": 1,
            "model_id": b"\x04" * 32,
            "units": 1,
            "price": 1,
            "worker_amount": 1,
            "owner_amount": 0,
            "royalty_ppm": 0,
            "fee_ppm": 0,
            "cumulative": 1,
            "voucher_amount": 1,
            "voucher_signature": b"s" * 65,
            "deadline_at": time.time() + 30,
            "input_hash": b"\x05" * 32,
            "inputs": b"inputs",
            "inputs_ref": None,
            "outputs": (),
            "reply_to": "link",
        }
        return Job(**(fields | changes))

    return make
