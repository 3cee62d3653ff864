"""A program that uses nothing but KServe's client; a process of its own, since tritonclient registers the same names.

Takes the addresses and the payment headers as JSON and the inputs as .npz; writes what it got as .npz, prints the rest.
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

TYPES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    "object": "BYTES",
}


def request(arrays, *, binary, model="minilm"):
    inputs = []
    for name, array in arrays.items():
        tensor = InferInput(name, list(array.shape), TYPES[str(array.dtype)])
        # FP16 has no place in JSON or in typed contents.
        tensor.set_data_from_numpy(array, binary_data=binary or array.dtype == np.float16)
        inputs.append(tensor)
    return InferRequest(model_name=model, infer_inputs=inputs, request_id="k-1")


def plain(array):
    return np.array([item.decode() if isinstance(item, bytes) else item for item in array.ravel()]).reshape(array.shape)


async def every_datatype(where, arrays):
    """Send a tensor of each datatype by each way; return what came back, strings as texts."""
    got = {}
    rest = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    for way, binary in (("json", False), ("binary", True)):
        asked = request(arrays, binary=binary, model="echo")
        answer = await rest.infer(f"http://{where['http']}", asked, "echo", headers=dict(where["headers"]))
        got |= {f"{way}_{one.name}": one.as_numpy() for one in answer.outputs}
    await rest.close()
    grpc = InferenceGRPCClient(where["grpc"], retries=0)
    asked = request(arrays, binary=True, model="echo")
    answer = await grpc.infer(asked, headers=tuple(where["headers"].items()))
    got |= {f"grpc_{one.name}": one.as_numpy() for one in answer.outputs}
    await grpc.close()
    return {name: plain(array) if array.dtype == object else array for name, array in got.items()}


async def main(where, arrays, out):
    if where["echo"]:
        np.savez(out, **await every_datatype(where, arrays))
        return
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


asyncio.run(main(json.loads(sys.argv[1]), dict(np.load(sys.argv[2], allow_pickle=True)), sys.argv[3]))
