"""Builds the bytes that Celery's own producer would push to a Redis queue for one task call, and reads them.

Celery's producer blocks, and costs more than the rest of a dispatch; this builds the same message for an event loop's
Redis client. A test sends the same call through Celery and compares the two field by field; another lets a real worker
consume ours.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from uuid import uuid4

import msgpack
import orjson

from contracts.protocol.errors import MessageError

ORIGIN = "gateway"
_NO_CALLBACKS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def task_message(task: str, argument: bytes, queue: str) -> bytes:
    """Return the message that calls `task(argument)` from `queue`; its result is ignored."""
    task_id = str(uuid4())
    body = msgpack.packb(([argument], {}, _NO_CALLBACKS), use_bin_type=True)
    return orjson.dumps(
        {
            "body": b64encode(body).decode(),
            "content-encoding": "binary",
            "content-type": "application/x-msgpack",
            "headers": {
                "lang": "py",
                "task": task,
                "id": task_id,
                "shadow": None,
                "eta": None,
                "expires": None,
                "group": None,
                "group_index": None,
                "retries": 0,
                "timelimit": [None, None],
                "root_id": task_id,
                "parent_id": None,
                "argsrepr": "",
                "kwargsrepr": "{}",
                "origin": ORIGIN,
                "ignore_result": True,
                "replaced_task_nesting": 0,
                "stamped_headers": None,
                "stamps": {},
            },
            "properties": {
                "correlation_id": task_id,
                "reply_to": "",
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid4()),
            },
        }
    )


def read_task_message(message: bytes) -> tuple[str, bytes]:
    """Return the task's name and its argument from what `task_message` built.

    Raises:
        MessageError: it is something else.
    """
    try:
        read = orjson.loads(message)
        (argument,) = msgpack.unpackb(b64decode(read["body"], validate=True), raw=False)[0]
        task = read["headers"]["task"]
    except Exception as error:
        raise MessageError("not a call of a task.", field="message") from error
    if type(task) is not str or type(argument) is not bytes:
        raise MessageError("not a call of one of these tasks.", field="message")
    return task, argument
