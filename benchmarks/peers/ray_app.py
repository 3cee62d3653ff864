import time

import ray
from common import DTYPE, MAX_BATCH, PORT, np, run, session
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.5})
class OnnxModel:
    def __init__(self):
        self.ready = session()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.001)
    async def batched(self, rows):
        return list(run(self.ready, np.stack(rows)))

    async def __call__(self, request: Request):
        body = await request.json()
        return {"y": (await self.batched(np.array(body["data"], DTYPE))).tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": PORT},
        logging_config={"log_level": "ERROR", "enable_access_log": False},
    )
    serve.run(OnnxModel.bind(), route_prefix="/")
    while True:
        time.sleep(1)
