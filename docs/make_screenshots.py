"""Take the console's screenshots in docs/images: a market of its own, paid requests, a wallet that opens a channel.

Needs chromium; run by `make screenshots`, after a change of the console's looks. The pictures differ in every address and
number from run to run, so no test compares them.
"""

from __future__ import annotations

import sys
import tempfile
import time
import wave
from pathlib import Path

import numpy as np
from PIL import Image

from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.pricing import Unit
from market.demo import minilm
from market.demo.network import LocalMarket, Options
from market.sdk.client import Market
from tests.support import llm, models
from tests.support.browser import PHONE, Visit, browser
from tests.support.injected_wallet import InjectedWallet
from workers.models.generation.request import INPUTS, LOGPROBS, OUTPUTS

IMAGES = Path(__file__).parent / "images"
COLOURS = 128
TOKEN = 1_000_000
RATE = 16_000
WIDE = {"width": 1200, "height": 800}
SENTENCES = ("A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose again.")


def main() -> None:
    """Start the market, make it busy, take the pictures."""
    with tempfile.TemporaryDirectory(prefix="screenshots-") as name, browser() as chromium:
        folder = Path(name)
        models.embedding_package(folder / "embedder")
        models.text_classifier_package(folder / "sentiment")
        models.ranker_package(folder / "reranker")
        models.loudness_package(folder / "loudness")
        packages = [folder / name for name in ("embedder", "loudness", "reranker", "sentiment")]
        if real := llm.find():
            packages.append(chat_model(folder / "smollm", real))
        options = Options(folder / "market", keep_state=False, settle_interval_seconds=3.0, packages=tuple(packages))
        with LocalMarket(options) as local:
            for step in (local.start_services, local.deploy, local.list_model, local.register_worker):
                step()
            local.start_programs()
            take(chromium, local, busy(local), tone(folder / "tone.wav"))


def chat_model(folder: Path, source: Path) -> Path:
    """Pack a real language model that lies on this machine."""
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
        options={"context_length": 2_048, "max_output_tokens": 128},
    )
    return folder


def busy(local: LocalMarket) -> str:
    """Pay for requests over several settlements; return the newest settled one's request id."""
    wallet, tokenizer = local.wallet("client"), minilm.load_tokenizer()
    with Market(local.gateway_url, wallet) as market:
        channel = local.chain.open_channel(wallet, local.accounts["gateway"].address, TOKEN)
        market.use_channel(channel, local.chain.domain)
        market.wait_for_channel(channel.digest(local.chain.domain), deposited=TOKEN)
        for turn in range(24):
            for count in range(1 + turn * 7 % 5):
                last = market.infer(minilm.NAME, minilm.tokenize(tokenizer, SENTENCES[: 1 + count % 3]))
            time.sleep(3)
        return hex0x(market.wait_for_settlement(last.paper).receipt.request_id)


def tone(path: Path) -> Path:
    """Write three seconds of a tone."""
    samples = (np.sin(np.arange(3 * RATE) * 0.05) * 16_384).astype("<i2")
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, RATE, 0, "NONE", ""))
        out.writeframes(samples.tobytes())
    return path


def take(chromium: object, local: LocalMarket, request_id: str, sound: Path) -> None:
    """Visit the pages and keep what they look like."""
    with Visit(chromium, local.gateway_url, viewport=WIDE) as visit:
        visit.expected_status.add(404)
        wallet = InjectedWallet(visit, local.rpc_url)
        local.chain.mint(local.wallet("deployer"), bytes.fromhex(wallet.address[2:]), 10 * TOKEN)
        shot(visit, "models", "models")
        shot(visit, f"models/{minilm.NAME}", "model")
        visit.open("playground/embedder")
        visit.page.get_by_role("button", name="Connect Test wallet").click()
        visit.page.get_by_role("button", name="Open channel").click()
        visit.page.get_by_text("Left to spend").wait_for()
        visit.page.get_by_label("Texts").fill(
            "the cat sat on the mat\nthe dog sat on the mat\na cat ran far away from home"
        )
        visit.page.get_by_role("button", name="Run for").click()
        visit.page.get_by_text("Verified", exact=True).wait_for()
        keep(visit, "playground")
        if llm.find():
            visit.open("playground/smollm")
            visit.page.get_by_label("Message").fill("What is the capital of France?")
            visit.page.get_by_label("Temperature").fill("0")
            visit.page.get_by_role("button", name="Send for at most").click()
            visit.page.get_by_text("Verified", exact=True).wait_for(timeout=120_000)
            visit.page.get_by_text("Type a message.").wait_for()
            keep(visit, "chat")
        visit.open("playground/reranker")
        visit.page.get_by_label("Rank by").fill("a cat on a mat")
        visit.page.get_by_label("Documents").fill(
            "a dog sat far away from home\nthe cat sat on the mat\na dog ran today"
        )
        visit.page.get_by_role("button", name="Run for").click()
        visit.page.get_by_text("Verified", exact=True).wait_for()
        keep(visit, "ranking")
        shot(visit, "settlement", "settlement")
        shot(visit, f"operators/{checksum(local.accounts['operator'].address)}", "operator")
        shot(visit, f"owners/{checksum(local.accounts['owner'].address)}", "owner")
    with Visit(chromium, local.gateway_url, scheme="dark", viewport=WIDE) as visit:
        visit.open(f"receipts/{request_id}")
        visit.page.get_by_text("Verified", exact=True).wait_for()
        keep(visit, "receipt-dark")
    with Visit(chromium, local.gateway_url, viewport=PHONE) as visit:
        shot(visit, "models", "models-phone")
    with Visit(chromium, local.gateway_url, scheme="dark", viewport=PHONE) as visit:
        visit.open("playground/loudness")
        visit.page.get_by_label("Recording").set_input_files(sound)
        visit.page.get_by_text("3 seconds, sent as").wait_for()
        visit.page.locator(".asked strong").wait_for()
        keep(visit, "recording-phone-dark")
        shot(visit, "settlement", "settlement-phone-dark")


def shot(visit: Visit, where: str, name: str) -> None:
    """Open a page and keep it once it is read."""
    visit.open(where)
    visit.page.get_by_role("heading", level=1).wait_for()
    visit.settle()
    time.sleep(1)
    keep(visit, name)


def keep(visit: Visit, name: str) -> None:
    """Write the whole page as a small PNG."""
    visit.page.evaluate("window.scrollTo(0, 0)")
    path = IMAGES / f"console-{name}.png"
    visit.page.screenshot(path=path, full_page=True)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
