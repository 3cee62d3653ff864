"""`python -m benchmarks.llm`: a chat streamed through the whole market, paid and receipted, beside the runtime alone.

The same model, prompt and number of tokens, greedy, in turns: once by onnxruntime-genai in this process, once by the
OpenAI route of a running market (gateway, queue, worker, database, chain on the same cores). Prints medians and the two
ratios to reach: tokens a second at least 0.9 of genai alone, first token at most 10 ms later. Needs a model folder in
genai's layout: MARKET_TEST_LLM or ../shared/models (see tests/support/llm.py).
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import httpx
import onnxruntime_genai as og

from contracts.protocol.money import ATOMIC_PER_TOKEN
from contracts.protocol.pricing import Unit
from market.demo.network import LocalMarket, Options
from market.sdk.client import Market
from tests.support import llm, models
from workers.models.generation.request import INPUTS, LOGPROBS, OUTPUTS

NAME = "chat"
DEPOSIT = 90 * ATOMIC_PER_TOKEN
MESSAGES = [{"role": "user", "content": "Write a long story about a lighthouse keeper who repairs clocks."}]


class Alone:
    """onnxruntime-genai in this process, as simple as its own examples."""

    def __init__(self, folder: Path) -> None:
        og.disable_telemetry_events()
        self.model = og.Model(str(folder))
        self.tokenizer = og.Tokenizer(self.model)

    def run(self, tokens: int) -> tuple[float, float, str]:
        """Return seconds to the first text, tokens a second after it, and the text."""
        started = time.perf_counter()
        prompt = self.tokenizer.apply_chat_template(json.dumps(MESSAGES), add_generation_prompt=True)
        ids = self.tokenizer.encode(prompt)
        params = og.GeneratorParams(self.model)
        params.set_search_options(max_length=len(ids) + tokens, batch_size=1, num_beams=1, do_sample=False)
        generator = og.Generator(self.model, params)
        generator.append_tokens(ids)
        stream = self.tokenizer.create_stream()
        first, text, made = 0.0, "", 0
        while not generator.is_done() and made < tokens:
            generator.generate_next_token()
            made += 1
            text += stream.decode(int(generator.get_next_tokens()[0]))
            if text and not first:
                first = time.perf_counter()
        return first - started, (made - 1) / (time.perf_counter() - first), text


class Through:
    """The same by the market's OpenAI route, paid by one voucher signed ahead."""

    def __init__(self, local: LocalMarket, market: Market) -> None:
        kept = market.channel()
        headers = {"Market-Voucher": local.wallet("client").voucher_header(kept.channel, DEPOSIT, kept.domain)}
        self.http = httpx.Client(base_url=local.gateway_url, headers=headers, timeout=120)

    def run(self, tokens: int) -> tuple[float, float, str]:
        """Return the same three."""
        body = {"model": NAME, "messages": MESSAGES, "temperature": 0, "max_tokens": tokens, "stream": True}
        started = time.perf_counter()
        first, last, text = 0.0, 0.0, ""
        with self.http.stream(
            "POST", "/v1/chat/completions", json={**body, "stream_options": {"include_usage": True}}
        ) as answer:
            if answer.status_code != 200:
                sys.exit(f"{answer.status_code}: {answer.read().decode()}")
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                piece = chunk["choices"][0]["delta"].get("content") if chunk.get("choices") else None
                if piece:
                    last = time.perf_counter()
                    first = first or last
                    text += piece
                if chunk.get("usage"):
                    made = chunk["usage"]["completion_tokens"]
        return first - started, (made - 1) / (last - first), text


def package(source: Path, folder: Path) -> Path:
    models.write(
        folder,
        {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()},
        task="text-generation",
        entry="genai_config.json",
        inputs=INPUTS,
        outputs=(*OUTPUTS, LOGPROBS),
        unit=Unit.TOKEN,
        batch_axis=None,
        tokenizer="tokenizer.json",
        options={"context_length": 2_048},
    )
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=200)
    options = parser.parse_args()
    source = llm.find()
    if source is None:
        sys.exit("no model: set MARKET_TEST_LLM to a folder in onnxruntime-genai's layout")
    with tempfile.TemporaryDirectory(prefix="bench-llm-") as scratch:
        chat = package(source, Path(scratch) / "packages" / NAME)
        with LocalMarket(Options(data_dir=Path(scratch) / "net", keep_state=False, packages=(chat,))) as local:
            for step in (
                local.start_services,
                local.deploy,
                local.list_model,
                local.register_worker,
                local.start_programs,
            ):
                step()
            with local.client(DEPOSIT) as market:
                measure({"alone": Alone(source), "market": Through(local, market)}, options)


def measure(ways: dict[str, Alone | Through], options: argparse.Namespace) -> None:
    texts = {name: way.run(20)[2] for name, way in ways.items()}  # warm, and the same model
    print("same text:", texts["alone"].strip() == texts["market"].strip())
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name in list(ways) if number % 2 else list(ways)[::-1]:
            first, rate, _ = ways[name].run(options.tokens)
            seen[name].append((first, rate))
            time.sleep(0.3)
    firsts = {name: statistics.median(first for first, _ in runs) * 1_000 for name, runs in seen.items()}
    rates = {name: statistics.median(rate for _, rate in runs) for name, runs in seen.items()}
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {platform.machine()}, {os.cpu_count()} cores, "
        f"{options.rounds} interleaved rounds of {options.tokens} tokens, medians"
    )
    for name in ways:
        print(f"{name:8} first token {firsts[name]:7.1f} ms   {rates[name]:6.1f} tokens/s")
    print(f"tokens/s, market / alone: {rates['market'] / rates['alone']:.2f} (reach 0.9)")
    print(f"first token, market - alone: {firsts['market'] - firsts['alone']:.1f} ms (reach 10)")


if __name__ == "__main__":
    main()
