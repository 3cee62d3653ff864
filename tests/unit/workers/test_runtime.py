import pytest

from tests.support.worker import make_mlp
from workers.errors import StartError
from workers.models import runtime
from workers.models.runtime import PROVIDERS, choose_provider


def provide(monkeypatch, *names):
    monkeypatch.setattr(runtime.ort, "get_available_providers", lambda: [PROVIDERS[name] for name in names])


def test_auto_takes_cuda_where_it_is_and_else_the_cpu(monkeypatch):
    provide(monkeypatch, "cuda", "cpu")
    assert choose_provider("auto") == "cuda"
    provide(monkeypatch, "openvino", "cpu")
    assert choose_provider("auto") == "cpu"


def test_a_provider_that_is_not_there_is_refused_with_what_is(monkeypatch):
    provide(monkeypatch, "cpu")
    with pytest.raises(StartError, match="CPUExecutionProvider") as caught:
        choose_provider("cuda")
    assert caught.value.field == "WORKER_PROVIDER"
    assert choose_provider("cpu") == "cpu"


def test_a_model_on_a_card_takes_no_more_of_it_than_its_budget(monkeypatch, tmp_path):
    make_mlp(tmp_path / "m.onnx")
    real, given = runtime.InferenceSession, []

    def session(data, options, providers, provider_options):
        given.append((providers[0], provider_options[0]))
        return real(data, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(runtime, "InferenceSession", session)
    data = (tmp_path / "m.onnx").read_bytes()
    for provider, more in (
        ("cuda", {"memory_bytes": 3 << 30}),
        ("cuda", {"memory_bytes": 3 << 30, "cuda_graphs": True}),
        ("cuda", {}),
        ("cpu", {"memory_bytes": 3 << 30}),
    ):
        runtime.open_session(data, provider=provider, threads=1, **more)
    limit = {"gpu_mem_limit": "3221225472", "arena_extend_strategy": "kSameAsRequested"}
    assert given == [
        (PROVIDERS["cuda"], limit),
        (PROVIDERS["cuda"], limit | {"enable_cuda_graph": "1"}),
        (PROVIDERS["cuda"], {}),
        (PROVIDERS["cpu"], {}),
    ]


def test_a_generating_model_on_a_card_takes_no_more_of_it_than_its_budget(monkeypatch):
    language = pytest.importorskip("workers.models.generation.language")
    said = []

    class Config:
        def __init__(self, folder):
            said.append(folder)

        def __getattr__(self, name):
            return lambda *arguments: said.append((name, *arguments))

    monkeypatch.setattr(language.og, "Config", Config)
    monkeypatch.setattr(language.og, "Model", lambda config: config)
    language.open_model("folder", "cuda", 0, 1 << 30)
    assert ("append_provider", "cuda") in said
    assert ("set_provider_option", "cuda", "gpu_mem_limit", str(1 << 30)) in said
    said.clear()
    language.open_model("folder", "cpu", 0, 1 << 30)
    assert said == ["folder", ("clear_providers",)]
