from common import PORT, run, session
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class OnnxModel(Model):
    def __init__(self):
        super().__init__("m")
        self.session = session()
        self.ready = True

    def predict(self, request: InferRequest, headers=None, response_headers=None):
        y = run(self.session, request.inputs[0].as_numpy())
        output = InferOutput(name="y", shape=list(y.shape), datatype="FP32")
        output.set_data_from_numpy(y, binary_data=False)
        return InferResponse(response_id=request.id or "0", model_name="m", infer_outputs=[output])


if __name__ == "__main__":
    ModelServer(http_port=PORT, enable_grpc=False, workers=1, access_log_format=None).start([OnnxModel()])
