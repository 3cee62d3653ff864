"""The stock `tritonclient`, all four of its clients, pays by a plugin and gets what onnxruntime gives in process."""

import asyncio
import queue

import httpx
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as sync_grpc
import tritonclient.grpc.aio as aio_grpc
import tritonclient.http as sync_http
import tritonclient.http.aio as aio_http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.clients.conftest import DATATYPES, example

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

# The worker's batch may differ from the reference's; see the tolerance measured for MiniLM.
TOLERANCE = 1e-5


def made(module, arrays, **how):
    inputs = []
    for name, array in arrays.items():
        datatype = "BYTES" if array.dtype == object else np_to_triton_dtype(array.dtype)
        tensor = module.InferInput(name, list(array.shape), datatype)
        inputs.append(tensor.set_data_from_numpy(array, **how))
    return inputs


@pytest.fixture
def http(running):
    with sync_http.InferenceServerClient(running.http) as client:
        client.register_plugin(running.payment)
        yield client


@pytest.fixture
def grpc(running):
    with sync_grpc.InferenceServerClient(running.grpc) as client:
        client.register_plugin(running.payment)
        yield client


@pytest.fixture(params=["http", "grpc"])
def either(request):
    module = {"http": sync_http, "grpc": sync_grpc}[request.param]
    return request.getfixturevalue(request.param), module


def test_health_and_metadata(either, http, grpc):
    client, _ = either
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("minilm")
    assert http.get_server_metadata()["name"] == grpc.get_server_metadata().name == "inference-market"
    assert http.get_model_metadata("minilm", "1")["versions"] == ["1"]
    assert {tensor.name for tensor in grpc.get_model_metadata("minilm").inputs} >= {"input_ids", "attention_mask"}
    assert {row["name"]: row["state"] for row in http.get_model_repository_index()}["echo"] == "READY"
    assert {row.name for row in grpc.get_model_repository_index().models} == {"minilm", "echo", "brief"}


def test_minilm_equals_onnxruntime_in_process(either, running, sentences, reference):
    client, module = either
    before = running.charged()
    result = client.infer("minilm", made(module, sentences), request_id="r-1")
    np.testing.assert_allclose(result.as_numpy("last_hidden_state"), reference, atol=TOLERANCE)
    response = result.get_response()
    assert (response["id"] if module is sync_http else response.id) == "r-1"
    assert running.charged() > before


@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype_comes_back_over_http(http, binary):
    arrays = {f"in_{name}": example(name) for name in DATATYPES}
    inputs = []
    for name, array in arrays.items():
        as_binary = binary or name == "in_FP16"  # the client sends FP16 no other way
        inputs.append(made(sync_http, {name: array}, binary_data=as_binary)[0])
    outputs = [
        sync_http.InferRequestedOutput(f"out_{name}", binary_data=binary or name == "FP16") for name in DATATYPES
    ]
    result = http.infer("echo", inputs, outputs=outputs)
    for name in DATATYPES:
        _same(result.as_numpy(f"out_{name}"), example(name))


def test_every_datatype_comes_back_over_grpc(grpc):
    result = grpc.infer("echo", made(sync_grpc, {f"in_{name}": example(name) for name in DATATYPES}))
    for name in DATATYPES:
        _same(result.as_numpy(f"out_{name}"), example(name))


@pytest.mark.parametrize("module", [aio_http, aio_grpc], ids=["http", "grpc"])
async def test_every_datatype_comes_back_to_asyncio_clients(running, module):
    client = module.InferenceServerClient(running.http if module is aio_http else running.grpc)
    client.register_plugin(running.payment)
    try:
        result = await client.infer("echo", made(module, {f"in_{name}": example(name) for name in DATATYPES}))
    finally:
        await client.close()
    for name in DATATYPES:
        _same(result.as_numpy(f"out_{name}"), example(name))


def test_bfloat16_comes_back(either):
    client, module = either
    sent = np.array([[1.0, -1.5], [3.140625, 2.0**100]], ml_dtypes.bfloat16)
    given = module.InferInput("x", [2, 2], "BF16").set_data_from_numpy(sent)
    outputs = [module.InferRequestedOutput(name) for name in "yz"]
    result = client.infer("brief", [given], outputs=outputs)
    for name in "yz":
        np.testing.assert_array_equal(result.as_numpy(name).astype("f4"), sent.astype("f4"))


def test_bfloat16_in_json(running):
    body = {"inputs": [{"name": "x", "datatype": "BF16", "shape": [1, 2], "data": [0.1, -1.5]}]}
    url = f"http://{running.http}/v2/models/brief/infer"
    outputs = httpx.post(url, json=body, headers=running.payment.headers(), timeout=60).json()["outputs"]
    assert [(row["name"], row["datatype"]) for row in outputs] == [("y", "BF16"), ("z", "FP32")]
    for row in outputs:
        np.testing.assert_array_equal(np.array(row["data"], "f4"), np.array([0.10009765625, -1.5], "f4"))


def _same(got, sent):
    if sent.dtype == object:
        assert [item.decode() if isinstance(item, bytes) else item for item in got.ravel()] == list(sent.ravel())
    else:
        assert got.dtype == sent.dtype
        np.testing.assert_array_equal(got, sent)


def test_one_output_of_many(either):
    client, module = either
    arrays = {f"in_{name}": example(name) for name in DATATYPES}
    result = client.infer("echo", made(module, arrays), outputs=[module.InferRequestedOutput("out_INT32")])
    np.testing.assert_array_equal(result.as_numpy("out_INT32"), example("INT32"))
    assert result.as_numpy("out_INT64") is None


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed_requests_and_answers(http, sentences, reference, algorithm, binary):
    result = http.infer(
        "minilm",
        made(sync_http, sentences, binary_data=binary),
        outputs=[sync_http.InferRequestedOutput("last_hidden_state", binary_data=binary)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_allclose(result.as_numpy("last_hidden_state"), reference, atol=TOLERANCE)


def test_compressed_messages_over_grpc(grpc, sentences, reference):
    result = grpc.infer("minilm", made(sync_grpc, sentences), compression_algorithm="gzip")
    np.testing.assert_allclose(result.as_numpy("last_hidden_state"), reference, atol=TOLERANCE)


def test_calls_of_other_servers_are_refused_by_name(either, running):
    client, module = either
    before = running.charged()
    for method, given in (
        ("get_inference_statistics", {"model_name": "minilm"}),
        ("get_model_config", {"model_name": "minilm"}),
        ("load_model", {"model_name": "minilm"}),
        ("unload_model", {"model_name": "minilm"}),
        ("get_trace_settings", {}),
        ("update_trace_settings", {"settings": {}}),
        ("get_log_settings", {}),
        ("update_log_settings", {"settings": {}}),
        ("get_system_shared_memory_status", {}),
        ("register_system_shared_memory", {"name": "a", "key": "/a", "byte_size": 1}),
        ("unregister_cuda_shared_memory", {}),
    ):
        with pytest.raises(InferenceServerException, match=r"is not offered|Not Found") as refused:
            getattr(client, method)(**given)
        assert module is sync_http or "no-route" in refused.value.message()
    assert running.charged() == before


def test_many_at_once(running, sentences, reference):
    with sync_http.InferenceServerClient(running.http, concurrency=8) as client:
        client.register_plugin(running.payment)
        pending = [client.async_infer("minilm", made(sync_http, sentences)) for _ in range(16)]
        for answer in pending:
            np.testing.assert_allclose(answer.get_result().as_numpy("last_hidden_state"), reference, atol=TOLERANCE)


@pytest.mark.parametrize("module", [aio_http, aio_grpc], ids=["http", "grpc"])
async def test_asyncio_clients(running, sentences, reference, module):
    address = running.http if module is aio_http else running.grpc
    client = module.InferenceServerClient(address)
    client.register_plugin(running.payment)
    try:
        assert await client.is_server_ready()
        assert await client.is_model_ready("minilm")
        results = await asyncio.gather(*(client.infer("minilm", made(module, sentences)) for _ in range(8)))
    finally:
        await client.close()
    for result in results:
        np.testing.assert_allclose(result.as_numpy("last_hidden_state"), reference, atol=TOLERANCE)


def test_grpc_stream(grpc, sentences, reference):
    answers: queue.Queue = queue.Queue()
    grpc.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(8):
        grpc.async_stream_infer("minilm", made(sync_grpc, sentences), request_id=str(number))
    grpc.async_stream_infer("nobody", made(sync_grpc, sentences), request_id="8")
    got = [answers.get(timeout=60) for _ in range(9)]
    grpc.stop_stream()
    assert [result.get_response().id for result, _ in got[:8]] == [str(number) for number in range(8)]
    for result, error in got[:8]:
        assert error is None
        np.testing.assert_allclose(result.as_numpy("last_hidden_state"), reference, atol=TOLERANCE)
    assert "unknown-model" in got[8][1].message()


async def test_grpc_aio_stream(running, sentences, reference):
    client = aio_grpc.InferenceServerClient(running.grpc)

    async def requests():
        for number in range(4):
            yield {
                "model_name": "minilm",
                "inputs": made(aio_grpc, sentences),
                "request_id": str(number),
                # a stream has one set of metadata, so each request may bring its own payment
                "parameters": {"market_voucher": running.payment.headers()["market-voucher"]},
            }

    try:
        async for result, error in client.stream_infer(requests()):
            assert error is None
            np.testing.assert_allclose(result.as_numpy("last_hidden_state"), reference, atol=TOLERANCE)
    finally:
        await client.close()


def test_refusals_reach_the_client_and_cost_nothing(either, running, sentences):
    client, module = either
    wrong = dict(sentences, input_ids=sentences["input_ids"][:1])
    huge = {name: np.zeros((65, 8), np.int64) for name in sentences}
    before = running.charged()
    for model, arrays, code in (
        ("minilm", wrong, "number of rows"),
        ("minilm", huge, "at most 64"),
        ("minilm", {"input_ids": sentences["input_ids"]}, "missing"),
        ("nobody", sentences, "no active listing"),
    ):
        with pytest.raises(InferenceServerException, match=code):
            client.infer(model, made(module, arrays))
    client.unregister_plugin()
    with pytest.raises(InferenceServerException):
        client.infer("minilm", made(module, sentences))
    assert running.charged() == before


def test_receipts_are_collected_and_checked(http, running, sentences):
    running.payment.collect()
    for _ in range(3):
        http.infer("minilm", made(sync_http, sentences))
    papers = running.payment.collect()
    assert len(papers) == 3
    assert papers[-1].receipt.cumulative == running.charged() <= running.payment.ceiling
    assert all(paper.receipt.price > 0 for paper in papers)
