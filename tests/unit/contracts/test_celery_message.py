"""The hand-built message against Celery's own producer, through kombu's in-memory Redis encoder."""

import base64
import json

import msgpack
from celery import Celery
from kombu.utils.json import dumps

from contracts.protocol.celery_message import task_message
from contracts.protocol.messages import TASK_RUN

QUEUE = "worker." + "ab" * 20


def celery_message(argument: bytes) -> dict:
    """Capture what Celery would push: kombu's virtual channel hands the finished message to `_put`."""
    app = Celery("capture", broker="memory://")
    app.conf.update(task_serializer="msgpack", accept_content=["msgpack"], task_send_sent_event=False)
    caught = {}
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel._put = lambda queue, message, **_: caught.update(queue=queue, message=json.loads(dumps(message)))
        producer = app.amqp.Producer(channel, auto_declare=False)
        app.send_task(TASK_RUN, args=[argument], queue=QUEUE, producer=producer, ignore_result=True)
    return caught["message"] | {"queue": caught.get("queue")}


def ours(argument: bytes) -> dict:
    return json.loads(task_message(TASK_RUN, argument, QUEUE))


def test_same_shape_as_celery():
    theirs, mine = celery_message(b"\x00\xff pack"), ours(b"\x00\xff pack")
    theirs.pop("queue")
    assert mine.keys() == theirs.keys()
    assert mine["headers"].keys() == theirs["headers"].keys()
    # What Celery adds for the routing of its own replies is of no use here.
    assert mine["properties"].keys() == theirs["properties"].keys()
    for part in ("content-encoding", "content-type"):
        assert mine[part] == theirs[part]
    free = {"id", "root_id", "origin", "argsrepr", "kwargsrepr", "shadow"}
    assert {k: v for k, v in mine["headers"].items() if k not in free} == {
        k: v for k, v in theirs["headers"].items() if k not in free
    }
    free = {"correlation_id", "delivery_tag", "reply_to"}
    assert {k: v for k, v in mine["properties"].items() if k not in free} == {
        k: v for k, v in theirs["properties"].items() if k not in free
    }


def test_body_carries_the_bytes_and_nothing_else():
    body = msgpack.unpackb(base64.b64decode(ours(b"\x00\xff")["body"]))
    assert body == msgpack.unpackb(base64.b64decode(celery_message(b"\x00\xff")["body"]))
    assert body[0] == [b"\x00\xff"]


def test_arguments_are_never_shown_in_the_headers():
    assert ours(b"secret-input")["headers"]["argsrepr"] == ""


def test_each_message_has_its_own_ids():
    first, second = ours(b""), ours(b"")
    assert first["headers"]["id"] != second["headers"]["id"]
    assert first["properties"]["delivery_tag"] != second["properties"]["delivery_tag"]
    assert first["headers"]["id"] == first["headers"]["root_id"] == first["properties"]["correlation_id"]
