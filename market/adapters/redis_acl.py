"""What a worker of the own lane may do at the broker, as lines of a Redis ACL file.

Decides the least that a Celery worker of ours needs: its own queue, its own announcement,
adding to reply lists, and tensors whose names nobody can guess. Printed by `market broker-acl`.
"""

from __future__ import annotations

import hashlib

from contracts.protocol.messages import ANNOUNCE_KEY_PREFIX, ANNOUNCED_SET, worker_queue

_QUEUE = "+brpop +rpop +lpush +rpush +llen +lrem"
_BINDING = "+sadd +smembers +srem"
_SESSION = "+hello +auth +ping +select +client|setinfo +client|setname +multi +exec +discard +watch +unwatch"


def worker_user(worker: bytes) -> str:
    """Name a worker's broker user."""
    return f"worker-{worker.hex()}"


def acl_line(worker: bytes, password: str) -> str:
    """Return the line of an ACL file for one worker; it holds the password's hash only."""
    queue = worker_queue(worker)
    secret = hashlib.sha256(password.encode()).hexdigest()
    selectors = (
        f"~{queue}* {_QUEUE}",  # with Celery's queues of other priorities behind the same name
        f"~_kombu.binding.{queue} ~_kombu.binding_permanent.{queue} {_BINDING}",
        f"~{ANNOUNCE_KEY_PREFIX}{worker.hex()} +set +del",
        f"~{ANNOUNCED_SET} +sadd",
        "~reply:* +rpush",
        "%R~blob:in:* %R~cancel:* +get +mget",
        "%W~blob:out:* +set",
    )
    return f"user {worker_user(worker)} on #{secret} resetchannels -@all {_SESSION} " + " ".join(
        f"({selector})" for selector in selectors
    )
