"""The Celery application of a worker: one queue, one process, messages that are data.

Remote control, gossip, mingling and events are off: a broker is for jobs, not for orders.
"""

from __future__ import annotations

from celery import Celery

from contracts.protocol.messages import worker_queue
from contracts.redis_url import celery_url
from workers.settings import WorkerSettings

# A pack belongs to the worker from the moment it is taken (ADR 15): kombu's imitation of acknowledgements costs two
# round trips a pack, to run a dead worker's jobs an hour after the gateway gave them to another.
BROKER_OPTIONS = {"ack_emulation": False}

app = Celery("workers", include=["workers.tasks"])


def configure(settings: WorkerSettings, worker: bytes) -> str:
    """Point the application at its broker and queue; returns the queue's name."""
    queue = worker_queue(worker)
    app.conf.update(
        broker_url=celery_url(settings.redis_url),
        broker_connection_retry_on_startup=True,
        broker_transport_options=BROKER_OPTIONS,
        accept_content=["msgpack"],
        task_serializer="msgpack",
        task_default_queue=queue,
        task_ignore_result=True,
        task_acks_late=True,
        task_store_errors_even_if_ignored=False,
        worker_prefetch_multiplier=2,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
    )
    return queue
