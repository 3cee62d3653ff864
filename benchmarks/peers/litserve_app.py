import litserve
from common import DTYPE, MAX_BATCH, PORT, np, run, session


class Api(litserve.LitAPI):
    def setup(self, device):
        self.ready = session()

    def decode_request(self, request):
        return np.array(request["data"], DTYPE)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, x):
        return run(self.ready, x)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"y": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=MAX_BATCH, batch_timeout=0.001), accelerator="cpu", workers_per_device=1, fast_queue=True
    )
    server.run(host="127.0.0.1", port=PORT, num_api_servers=1, generate_client_file=False, log_level="warning")
