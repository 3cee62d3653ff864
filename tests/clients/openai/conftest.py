"""One whole market as real processes for the stock `openai` client: MiniLM embeddings, a tiny chat model, SmolLM2."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from contracts.protocol.hexes import hex0x
from contracts.protocol.money import ATOMIC_PER_TOKEN
from contracts.protocol.pricing import Unit
from market.demo import minilm
from market.demo.network import LocalMarket, Options
from market.sdk.client import Market
from tests.support import llm, models, tiny_llm
from workers.models.generation.request import INPUTS, LOGPROBS, OUTPUTS

pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")

DEPOSIT = 50 * ATOMIC_PER_TOKEN
EMBEDDER, TINY, CHAT, AGENT = minilm.TEXT_NAME, "tiny-llm", "smollm", "agent"


def build_packages(folder: Path) -> tuple[Path, ...]:
    minilm.build_text_package(folder / EMBEDDER)
    tiny_llm.package(folder / TINY)
    real = llm.find()
    if real is None:
        tiny_llm.tool_package(folder / AGENT)
        return folder / EMBEDDER, folder / TINY, folder / AGENT
    files = {path.name: path.read_bytes() for path in real.iterdir() if path.is_file()}
    write_chat(folder / CHAT, files)
    write_chat(folder / AGENT, {**files, "chat_template.jinja": llm.TOOL_TEMPLATE.encode()}, tool_format="hermes")
    return folder / EMBEDDER, folder / TINY, folder / AGENT, folder / CHAT


def write_chat(folder: Path, files: dict[str, bytes], **options: Any) -> None:
    models.write(
        folder,
        files,
        task="text-generation",
        entry="genai_config.json",
        inputs=INPUTS,
        outputs=(*OUTPUTS, LOGPROBS),
        unit=Unit.TOKEN,
        batch_axis=None,
        tokenizer="tokenizer.json",
        options={"context_length": 2_048, **options},
    )


@dataclass
class Paying:
    """A funded channel at a running market, and the header that spends from it."""

    local: LocalMarket
    market: Market

    @property
    def base_url(self) -> str:
        return f"{self.local.gateway_url}/v1"

    @property
    def has_chat(self) -> bool:
        return llm.find() is not None

    def header(self, amount: int = DEPOSIT) -> dict[str, str]:
        kept = self.market.channel()
        self.market.papers.signed(kept.channel_id, amount)
        return {"Market-Voucher": self.local.wallet("client").voucher_header(kept.channel, amount, kept.domain)}

    def client(self, **changes) -> openai.OpenAI:
        given = {"default_headers": self.header(), "api_key": "none", "max_retries": 0}
        return openai.OpenAI(base_url=self.base_url, **{**given, **changes})

    def async_client(self, **changes) -> openai.AsyncOpenAI:
        given = {"default_headers": self.header(), "api_key": "none", "max_retries": 0}
        return openai.AsyncOpenAI(base_url=self.base_url, **{**given, **changes})

    def state(self) -> tuple[int, int]:
        found = self.market.get(f"/market/v1/channels/{hex0x(self.market.channel().channel_id)}")
        return int(found["charged"]), int(found["reserved"])


@pytest.fixture(scope="session")
def paying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paying]:
    folder = tmp_path_factory.mktemp("openai")
    packages = build_packages(folder / "packages")
    with LocalMarket(Options(data_dir=folder / "net", keep_state=False, packages=packages, grpc=True)) as local:
        local.start()
        with local.client(DEPOSIT) as market:
            yield Paying(local, market)


@pytest.fixture
def client(paying: Paying) -> openai.OpenAI:
    return paying.client()
