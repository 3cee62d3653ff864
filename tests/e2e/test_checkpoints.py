"""A GGUF file from its owner's folder to a paid answer: published by one command, fetched, served, and as PyTorch says.

Needs the extra [convert-torch], which `make install` leaves out for its size.
"""

import json
import os
import subprocess
import time

import httpx
import openai
import pytest

from market.demo import minilm
from market.demo.network import TOKEN_PRICE, LocalMarket, Options, program
from market.sdk.client import Market
from market.sdk.httpx_auth import MarketAuth
from market.sdk.papers import PaperStore
from tests.integration.workers.test_converting import (
    EXTRA,
    SPECIAL,
    bert,
    llama,
    save,
    torch,
    transformers,
    write_gguf,
)
from tests.support import models
from tests.support.documents import Reading
from tests.support.person import Person

gguf = pytest.importorskip("gguf", reason=EXTRA)
pytest.importorskip("accelerate", reason=EXTRA)
pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROMPT, LENGTH = "once upon a time", 12
TERMS = ("--min-price", "0.000001", "--max-price", "0.00001", "--royalty-ppm", "50000")


@pytest.fixture
def local(tmp_path):
    with LocalMarket(Options(tmp_path / "market", keep_state=False)) as found:
        found.start()
        found.save_network_file()
        yield found


def serve(local, models):
    """Put a worker with other models in the place of the one that runs."""
    [worker] = [child for child in local.supervisor.children if child.name == "worker"]
    worker.stop()
    local.supervisor.children.remove(worker)
    local.supervisor.start("worker", program("worker", "run"), local.worker_environment() | {"WORKER_MODELS": models})


def wait_for_offer(market):
    deadline = time.monotonic() + 200
    while not any(row["name"] == "tiny-llama" and row["offers"] for row in market.get("/market/v1/models")):
        assert time.monotonic() < deadline, "nobody offers it"
        time.sleep(0.3)


def likeliest(model):
    """Return what PyTorch writes when it takes the likeliest token each time; a token is a byte."""
    ids = list(PROMPT.encode())
    for _ in range(LENGTH):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return bytes(ids[-LENGTH:]).decode()


def test_a_gguf_file_is_published_served_and_paid_for(local, tmp_path):
    model = llama()
    path = tmp_path / "Tiny-Llama.gguf"
    write_gguf(gguf, path, model)
    command = program("market", "model", "publish", str(path), *TERMS, "--json", "--data-dir", str(local.data_dir))
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert (said["name"], said["task"], said["converted"]["architecture"]) == ("tiny-llama", "text-generation", "GGUF")

    serve(local, f"{minilm.NAME},tiny-llama={TOKEN_PRICE}")
    wallet = local.wallet("client")
    with Market(local.gateway_url, wallet, papers=PaperStore(None)) as market:
        wait_for_offer(market)
        channel = local.chain.open_channel(wallet, local.accounts["gateway"].address, 1_000_000)
        market.use_channel(channel, local.chain.domain)
        market.wait_for_channel(channel.digest(local.chain.domain), deposited=1_000_000)
        payment = MarketAuth(market, window=500_000, budget=500_000)
        client = openai.OpenAI(
            base_url=f"{market.url}/v1", api_key="none", http_client=httpx.Client(auth=payment), max_retries=0
        )
        answer = client.completions.create(model="tiny-llama", prompt=PROMPT, max_tokens=LENGTH, temperature=0)
        (paper,) = payment.collect()
    assert answer.choices[0].text == likeliest(model)
    assert answer.usage.completion_tokens == LENGTH
    assert paper.receipt.price == answer.usage.total_tokens * TOKEN_PRICE


def test_the_commands_of_the_guide_for_owners(tmp_path):
    owner = Person(tmp_path / "owner", {})
    save(owner.folder / "bge-small-en", bert(transformers.BertModel), models.tokenizer_json(), SPECIAL)
    write_gguf(gguf, owner.folder / "Qwen3-0.6B-Q8_0.gguf", llama(), "Q8_0")
    with Reading("docs/owners.md", "console", of="worker convert") as lines:
        for line in lines:
            owner.types(line)
    assert list((owner.folder / "bge-small-en-onnx").glob("*.onnx"))
    assert (owner.folder / "qwen" / "genai_config.json").is_file()
