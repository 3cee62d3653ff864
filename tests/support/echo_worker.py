"""The worker's own Celery application and tasks with a model that gives its inputs back: for tests of the broker.

Run as `python -m tests.support.echo_worker <redis url> <worker address hex>`.
"""

import sys
import time
from types import SimpleNamespace

import redis

from contracts.protocol.messages import ANNOUNCE_KEY_PREFIX, ANNOUNCED_SET, Result
from workers import tasks
from workers.app import app, configure
from workers.settings import WorkerSettings

URL, ADDRESS = sys.argv[1], bytes.fromhex(sys.argv[2])


class Echo:
    generations = SimpleNamespace(attach=lambda deliver, cancelled: None)

    @staticmethod
    def run(jobs, *, early):
        done = [
            Result(job.request_id, job.attempt, ok=inputs is not None, outputs=inputs, served_at=int(time.time()))
            for job, inputs in jobs
        ]
        return done, []


if __name__ == "__main__":
    client = redis.Redis.from_url(URL)
    client.set(ANNOUNCE_KEY_PREFIX + ADDRESS.hex(), b"alive", ex=60)
    client.sadd(ANNOUNCED_SET, ADDRESS.hex())
    queue = configure(WorkerSettings(redis_url=URL), ADDRESS)
    journal, key = SimpleNamespace(keep=lambda *_: None), SimpleNamespace(address=ADDRESS)
    node = SimpleNamespace(redis=client, key=key, executor=Echo, journal=journal)
    tasks.join(node, SimpleNamespace(in_flight=0))
    app.Worker(
        pool="solo",
        queues=[queue],
        loglevel="WARNING",
        without_mingle=True,
        without_gossip=True,
        without_heartbeat=True,
        quiet=True,
    ).start()
