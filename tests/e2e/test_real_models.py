"""Models that others made and packed in their Python packages, served by a manifest that `market model init` guessed.

Magika (what kind of content some bytes are) comes with the test tools. Silero's voice activity detector is taken where
`pip install --no-deps silero-vad` has put it; the package itself would bring PyTorch.
"""

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from contracts.protocol.money import ATOMIC_PER_TOKEN
from contracts.protocol.pricing import Unit
from market.cli import app
from market.demo.network import UNIT_PRICE, LocalMarket, Options
from market.sdk import packages
from market.sdk.client import Market
from market.sdk.errors import GatewayRefused

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

DEPOSIT = 20 * ATOMIC_PER_TOKEN
RATE, STEP, CONTEXT = 16_000, 512, 64
FILES = {
    "python": b"import os\n\n\ndef main():\n    for name in os.listdir('.'):\n        print(name)\n\n\nmain()\n" * 3,
    "json": json.dumps({"name": "a", "values": list(range(40)), "nested": {"yes": True}}, indent=1).encode(),
    "html": b"<!DOCTYPE html><html><head><title>A page</title></head><body><p>Some text.</p></body></html>" * 2,
    "rust": b'use std::io;\n\nfn main() -> io::Result<()> {\n    let mut line = String::new();\n    io::stdin().read_line(&mut line)?;\n    println!("{}", line);\n    Ok(())\n}\n'
    * 2,
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\x06\0\0\0\x1f\xf3\xffa" + bytes(range(256)),
}


def inside(package: str, *path: str) -> Path | None:
    """Return a file of an installed package without importing that; None where it is not installed."""
    found = importlib.util.find_spec(package)
    folders = () if found is None else found.submodule_search_locations or ()
    return next((file for folder in folders if (file := Path(folder, *path)).is_file()), None)


MAGIKA = inside("magika", "models", "standard_v3_3", "model.onnx")
SILERO = inside("silero_vad", "data", "silero_vad_16k_sequence.onnx")


@dataclass(frozen=True)
class Served:
    """A running market with the models, and who pays."""

    market: Market
    units: dict[str, Unit]

    def charged(self) -> int:
        channel = self.market.channel().channel_id
        return int(self.market.get(f"/market/v1/channels/0x{channel.hex()}")["charged"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, units = tmp_path_factory.mktemp("real"), {}
    wanted = {
        "magika": (MAGIKA, ()),
        "silero": (SILERO, ("--unit", "second", "--option", f"sample_rate={RATE}", "--option", "audio_input=input")),
    }
    for name, (file, said) in wanted.items():
        if file is not None:
            (folder / name).mkdir()
            (folder / name / "model.onnx").write_bytes(file.read_bytes())
            made = CliRunner().invoke(app, ["model", "init", str(folder / name), *said])
            assert made.exit_code == 0, made.output
            units[name] = packages.load(folder / name).unit
    served_too = tuple(folder / name for name in units)
    with LocalMarket(Options(folder / "net", keep_state=False, packages=served_too)) as local:
        local.start()
        with local.client(DEPOSIT) as market:
            yield Served(market, units)


def in_process(file: Path, inputs: dict[str, NDArray], output: str) -> NDArray:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    found: NDArray = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run([output], inputs)[0]
    return found


# --- bytes ------------------------------------------------------------------------------------------------------------


def features(content: bytes) -> list[int]:
    """Return Magika's features: 1,024 bytes from its first that is no blank and to its last, filled up with 256."""
    first, last = content.lstrip()[:1024], content.rstrip()[-1024:]
    return [*first, *[256] * (1024 - len(first)), *[256] * (1024 - len(last)), *last]


@pytest.mark.skipif(MAGIKA is None, reason="magika is not installed")
def test_the_kind_of_content_is_what_magika_itself_says(served):
    from magika import Magika

    assert served.units["magika"] is Unit.ROW
    rows = np.array([features(content) for content in FILES.values()], np.int32)
    outcome = served.market.infer("magika", {"bytes": rows})
    scores = outcome.outputs["target_label"]
    np.testing.assert_allclose(scores, in_process(MAGIKA, {"bytes": rows}, "target_label"), atol=1e-6)
    labels = json.loads(MAGIKA.with_name("config.min.json").read_text())["target_labels_space"]
    assert [labels[place] for place in scores.argmax(axis=1)] == list(FILES)
    theirs = [Magika().identify_bytes(content) for content in FILES.values()]
    assert [one.dl.label for one in theirs] == list(FILES)
    # It takes one at a time, which moves the second's score by 0.0001.
    np.testing.assert_allclose(scores.max(axis=1), [one.score for one in theirs], atol=1e-3)
    assert outcome.charged == len(FILES) * UNIT_PRICE


@pytest.mark.skipif(MAGIKA is None, reason="magika is not installed")
def test_bytes_of_another_length_cost_nothing(served):
    before = served.charged()
    with pytest.raises(GatewayRefused) as refused:
        served.market.infer("magika", {"bytes": np.zeros((1, 2047), np.int32)})
    assert refused.value.code == "tensor-shape"
    assert served.charged() == before


# --- sound ------------------------------------------------------------------------------------------------------------


def clip(seconds: float) -> dict[str, NDArray]:
    """Return silence, then something like a voice: a buzz of 120 Hz whose overtones sway; in steps with some context."""
    at = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * 120 * n * at) / n * (1 + np.sin(2 * np.pi * (2 + n / 3) * at)) for n in range(1, 30))
    sound = (0.1 * buzz * (at > seconds / 2)).astype("f4")
    padded = np.concatenate([np.zeros(CONTEXT, "f4"), sound])
    steps = len(sound) // STEP
    windows = np.stack([padded[n * STEP : n * STEP + CONTEXT + STEP] for n in range(steps)])
    return {"input": windows, "h": np.zeros((1, 1, 128), "f4"), "c": np.zeros((1, 1, 128), "f4")}


@pytest.mark.skipif(SILERO is None, reason="silero-vad is not installed: pip install --no-deps silero-vad")
def test_sound_is_priced_by_the_second_and_heard_as_in_process(served):
    assert served.units["silero"] is Unit.SECOND
    given = clip(3.0)
    outcome = served.market.infer("silero", given)
    chances = outcome.outputs["speech_probs"]
    np.testing.assert_allclose(chances, in_process(SILERO, given, "speech_probs"), atol=1e-5)
    assert len(chances) == len(given["input"])
    assert chances[: len(chances) // 2 - 4].max() < 0.3, "silence is no speech"
    seconds = -(-given["input"].size // RATE)
    assert seconds == 4, "three seconds of sound, and the context of each step"
    assert outcome.charged == seconds * UNIT_PRICE


@pytest.mark.skipif(SILERO is None, reason="silero-vad is not installed: pip install --no-deps silero-vad")
def test_half_a_second_costs_a_whole_one(served):
    assert served.market.infer("silero", clip(0.5)).charged == UNIT_PRICE
