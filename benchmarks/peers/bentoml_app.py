import bentoml
import numpy as np
from common import DTYPE, MAX_BATCH, run, session


@bentoml.service(
    workers=1,
    traffic={"timeout": 60, "max_concurrency": 1000},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class OnnxModel:
    def __init__(self):
        self.ready = session()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=2000)
    def predict(self, data: np.ndarray) -> np.ndarray:
        return run(self.ready, np.asarray(data).astype(DTYPE))
