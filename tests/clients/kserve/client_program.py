"""A program that uses nothing but KServe's client; a process of its own, since tritonclient registers the same names.

Takes the addresses and the payment headers as JSON and the inputs as .npz; writes what it got as .npz, prints the rest.
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

TYPES = {"int64": "INT64", "object": "BYTES"}


def request(arrays, *, binary):
    inputs = []
    for name, array in arrays.items():
        tensor = InferInput(name, list(array.shape), TYPES[str(array.dtype)])
        tensor.set_data_from_numpy(array, binary_data=binary)
        inputs.append(tensor)
    return InferRequest(model_name="minilm", infer_inputs=inputs, request_id="k-1")


async def main(where, arrays, out):
    seen, got = {}, {}
    rest = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    base = f"http://{where['http']}"
    seen["rest"] = [
        await rest.is_server_live(base),
        await rest.is_server_ready(base),
        await rest.is_model_ready(base, "minilm"),
    ]
    for name, binary in (("rest_json", False), ("rest_binary", True)):
        answer = await rest.infer(base, request(arrays, binary=binary), "minilm", headers=dict(where["headers"]))
        got[name] = answer.outputs[0].as_numpy()
    try:
        await rest.infer(base, request(arrays, binary=True), "minilm", headers={})
    except Exception as error:
        seen["unpaid"] = str(error)
    await rest.close()
    grpc = InferenceGRPCClient(where["grpc"], retries=0)
    seen["grpc"] = [await grpc.is_server_live(), await grpc.is_server_ready(), await grpc.is_model_ready("minilm")]
    answer = await grpc.infer(request(arrays, binary=True), headers=tuple(where["headers"].items()))
    got["grpc"] = answer.outputs[0].as_numpy()
    seen["id"] = answer.id
    await grpc.close()
    np.savez(out, **got)
    sys.stdout.write(json.dumps(seen) + "\n")


asyncio.run(main(json.loads(sys.argv[1]), dict(np.load(sys.argv[2])), sys.argv[3]))
