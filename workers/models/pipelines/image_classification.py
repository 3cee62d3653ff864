"""Pictures in, one score a label out: whole PNG, JPEG or WebP files, decoded under limits, resized, normalised."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contracts.protocol.manifest import TensorSpec
from contracts.protocol.tensors import Tensor
from workers.errors import ExecutionFailed, InputsRefused, JobError, ModelUnusable
from workers.models.graph import Arrays, Graph
from workers.models.pipelines.base import Answer, Options, Pipeline, check_interface, check_parameters
from workers.models.pipelines.text_classification import ACTIVATIONS, count_labels
from workers.models.pipelines.texts import activate
from workers.models.store import Package

IMAGE = TensorSpec("image", "BYTES", (-1,))
FORMATS = ("PNG", "JPEG", "WEBP")
# Three bytes each while it is resized; a file of some KiB may claim any number.
MAX_PIXELS = 40_000_000
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class ImageClassificationPipeline(Pipeline[list[bytes]]):
    """Serves `image` BYTES[-1] → `scores` FP32[-1, L]."""

    def __init__(self, package: Package, graph: Graph) -> None:
        super().__init__(package, graph)
        options = Options(self.manifest)
        if len(graph.inputs) != 1 or len(graph.outputs) < 1:
            raise ModelUnusable(f"the graph takes {sorted(graph.inputs)}, not one image.", field=self.manifest.entry)
        (self._input,) = graph.inputs.values()
        self._output = options.text("outputs_name", next(iter(graph.outputs)))
        if self._output not in graph.outputs:
            raise ModelUnusable(f"the graph gives {sorted(graph.outputs)}.", field="options.outputs_name")
        shape = self._input.shape
        if len(shape) != 4 or self._input.datatype not in ("FP32", "FP16", "UINT8"):
            raise ModelUnusable(
                f"{self._input.name} is {self._input.datatype}{list(shape)}, not a batch of images.",
                field=self.manifest.entry,
            )
        channels_last = shape[3] == 3 and shape[1] != 3
        self._layout = options.choice("layout", "NHWC" if channels_last else "NCHW", ("NCHW", "NHWC"))
        fixed = shape[2] if self._layout == "NCHW" else shape[1]
        self._size = options.number("size", fixed if isinstance(fixed, int) else 224, 1, 4_096)
        self._crop = options.number("crop_percent", 0, 0, 100)
        self._resample = _RESAMPLING[options.choice("resample", "bilinear", tuple(_RESAMPLING))]
        self._mean = np.array(options.floats("mean", (0.485, 0.456, 0.406)), np.float32)
        self._std = np.array(options.floats("std", (0.229, 0.224, 0.225)), np.float32)
        if not (self._std > 0).all():
            raise ModelUnusable("every deviation must be above 0.", field="options.std")
        count = count_labels(options, graph.outputs[self._output].shape, self._output)
        self._activation = options.choice("activation", "softmax" if count > 1 else "sigmoid", ACTIVATIONS)
        options.done()
        check_interface(self.manifest, [IMAGE], [TensorSpec("scores", "FP32", (-1, count))])

    @property
    def graph_outputs(self) -> Sequence[str]:
        """The one output that is used."""
        return [self._output]

    def prepare(self, tensors: Sequence[Tensor], parameters: Mapping[str, Any]) -> list[bytes]:
        """Return the files; they are decoded when they run, a batch at a time."""
        check_parameters(parameters)
        files = list(tensors[0].to_numpy())
        if len(files) > self.manifest.max_batch:
            raise InputsRefused(f"{len(files)} images, {self.manifest.max_batch} allowed.", field="image")
        return files

    def group(self, works: Sequence[list[bytes]]) -> list[list[int]]:
        """Join requests up to the cap in images."""
        groups: list[list[int]] = []
        rows = 0
        for i, files in enumerate(works):
            if not groups or rows + len(files) > self.batch_cap:
                groups.append([])
                rows = 0
            groups[-1].append(i)
            rows += len(files)
        return groups

    def run(self, works: Sequence[list[bytes]]) -> list[Answer | JobError]:
        """Decode and run; a broken image fails its own request only."""
        answers: list[Answer | JobError | None] = [None] * len(works)
        pixels: list[NDArray[Any]] = []
        owners: list[int] = []
        for i, files in enumerate(works):
            try:
                decoded = [self._decode(number, data) for number, data in enumerate(files)]
            except InputsRefused as error:
                answers[i] = error
                continue
            pixels += decoded
            owners += [i] * len(decoded)
        scores = [
            row
            for start in range(0, len(pixels), self.batch_cap)
            for row in self._scores(pixels[start:][: self.batch_cap])
        ]
        owner = np.array(owners)
        for i in range(len(works)):
            if answers[i] is None:
                block = np.stack([scores[at] for at in np.flatnonzero(owner == i)])
                finite = bool(np.isfinite(block).all())
                answers[i] = (
                    Answer({"scores": block})
                    if finite
                    else ExecutionFailed("the model gave a number that is not finite.")
                )
        return [answer for answer in answers if answer is not None]

    def sample(self, rows: int) -> Arrays:
        """Return grey pictures."""
        return self._inputs([np.full((self._size, self._size, 3), 128, np.uint8)] * rows)

    def _scores(self, pixels: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        values = self.graph.run(self._inputs(pixels), [self._output])[self._output].astype(np.float32, copy=False)
        if values.ndim != 2 or len(values) != len(pixels):
            raise ExecutionFailed(f"{self._output} is {list(values.shape)} for {len(pixels)} images.")
        return activate(values, self._activation)

    def _inputs(self, pixels: Sequence[NDArray[Any]]) -> Arrays:
        batch = np.stack(pixels)
        if self._input.datatype != "UINT8":
            batch = (batch.astype(np.float32) / 255 - self._mean) / self._std
        if self._layout == "NCHW":
            batch = batch.transpose(0, 3, 1, 2)
        return {self._input.name: np.ascontiguousarray(batch, dtype=self._input.dtype)}

    def _decode(self, number: int, data: bytes) -> NDArray[np.uint8]:
        """Return uint8[size, size, 3]."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                    if picture.width * picture.height > MAX_PIXELS:
                        raise InputsRefused(
                            f"image {number} has more than {MAX_PIXELS} pixels.",
                            field="image",
                        )
                    return np.asarray(self._fit(_rgb(picture)))
        except InputsRefused:
            raise
        except Image.DecompressionBombError as error:
            raise InputsRefused(f"image {number} has more than {MAX_PIXELS} pixels.", field="image") from error
        except Exception as error:  # Pillow raises whatever a broken file makes it stumble over
            raise InputsRefused(
                f"image {number} cannot be read.", field="image", remedy="Send whole PNG, JPEG or WebP files."
            ) from error

    def _fit(self, picture: Image.Image) -> Image.Image:
        size = self._size
        if not self._crop:
            return picture.resize((size, size), self._resample)
        edge = max(size, round(size * 100 / self._crop))
        scale = edge / min(picture.width, picture.height)
        wide, high = max(edge, round(picture.width * scale)), max(edge, round(picture.height * scale))
        left, top = (wide - size) // 2, (high - size) // 2
        # Resize only what is kept: a picture of one pixel's height would else become a very long one.
        box = (left / wide * picture.width, top / high * picture.height)
        end = ((left + size) / wide * picture.width, (top + size) / high * picture.height)
        return picture.resize((size, size), self._resample, box=(*box, *end))


def _rgb(picture: Image.Image) -> Image.Image:
    """Return a picture in eight bits a colour."""
    if picture.mode == "I;16":
        # Of 16 bits of grey, and of them alone, Pillow makes white of all that is above 255.
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")
