from common import DTYPE, np, run, session
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


class OnnxModel(MLModel):
    async def load(self):
        self.session = session()
        return True

    async def predict(self, payload):
        given = payload.inputs[0]
        data = given.data.root if hasattr(given.data, "root") else given.data
        y = run(self.session, np.array(data, DTYPE).reshape(given.shape))
        output = ResponseOutput(name="y", shape=list(y.shape), datatype="FP32", data=y.ravel().tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])
