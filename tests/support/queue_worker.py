"""A Celery worker that knows only the messages: answers each job with its own inputs, notes papers in Redis.

Run as `python -m tests.support.queue_worker <redis url> <worker address hex>`. Job parameters are in `model_id`'s first
byte: 0 answers, 1 stays silent, 2 answers twice, 3 sends a partial result first, 4 fails, 5 sends outputs by reference,
7 takes as many ms
a pack as its inputs say.
"""

import sys
import threading
import time

import redis
from celery import Celery

from contracts.protocol.messages import (
    REPLY_TTL_SECONDS,
    TASK_FILE_PAPERS,
    TASK_RUN,
    Result,
    blob_key,
    cancel_key,
    decode_pack,
    decode_papers,
    encode_results,
    worker_queue,
)

URL, ADDRESS = sys.argv[1], bytes.fromhex(sys.argv[2])
app = Celery("queue_worker", broker=URL)
app.conf.update(
    accept_content=["msgpack", "json"],
    task_serializer="msgpack",
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)
app.conf.broker_transport_options = {"ack_emulation": False}
client = redis.Redis.from_url(URL)


def note(papers):
    for request_id, signature in papers.countersigned:
        client.hset("noted", request_id, signature)
    if papers.credit_note is not None:
        client.set("note", papers.credit_note.to_bytes())


def stream(job):
    """Send the numbers from 0 a piece each, then all that counted."""
    count, most = 0, int(job.inputs)
    while count < most:
        stop = client.get(cancel_key(job.request_id, job.attempt))
        if stop is not None:
            count = min(count, int(stop))
            break
        piece = Result(job.request_id, job.attempt, ok=True, outputs=b"%d," % count, final=False)
        client.rpush(job.reply_to, encode_results([piece]))
        count += 1
        time.sleep(0.002)
    whole = b"".join(b"%d," % i for i in range(count))
    client.rpush(job.reply_to, encode_results([Result(job.request_id, job.attempt, ok=True, outputs=whole)]))


@app.task(name=TASK_RUN)
def run(data):
    pack = decode_pack(data)
    note(pack.papers)
    client.rpush("packs", len(pack.jobs))
    replies = []
    for job in pack.jobs:
        inputs = job.inputs if job.inputs is not None else client.get(job.inputs_ref)
        mode = job.model_id[0]
        result = Result(job.request_id, job.attempt, ok=True, outputs=inputs, served_at=int(time.time()))
        if mode == 1:
            continue
        if mode == 6:
            threading.Thread(target=stream, args=(job,), daemon=True).start()
            continue
        if mode == 7 and not replies:
            time.sleep(int(inputs) / 1000)
        if mode == 3:
            replies.append(Result(job.request_id, job.attempt, ok=True, outputs=b"part", final=False))
        if mode == 4:
            result = Result(job.request_id, job.attempt, ok=False, code="broken", detail="as asked")
        if mode == 5:
            key = blob_key("out", job.request_id, job.attempt)
            client.set(key, inputs, ex=60)
            result = Result(job.request_id, job.attempt, ok=True, outputs_ref=key)
        replies += [result, result] if mode == 2 else [result]
    reply_to = pack.jobs[0].reply_to
    if replies:
        client.rpush(reply_to, encode_results(replies))
    client.expire(reply_to, REPLY_TTL_SECONDS)


@app.task(name=TASK_FILE_PAPERS)
def file_papers(data):
    note(decode_papers(data))


if __name__ == "__main__":
    app.worker_main(
        [
            "worker",
            "--pool=solo",
            "--without-mingle",
            "--without-gossip",
            "--without-heartbeat",
            "--loglevel=WARNING",
            "-Q",
            worker_queue(ADDRESS),
            "-n",
            f"w{ADDRESS.hex()}@test",
        ]
    )
