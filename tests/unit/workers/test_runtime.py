import pytest

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
