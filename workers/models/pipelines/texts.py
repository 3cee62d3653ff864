"""Texts to token ids and to the inputs of a transformer's graph; the texts of several requests run together.

Rows are sorted by length before they are padded, so that short texts do not pay for long ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.manifest import TensorSpec
from contracts.protocol.metering import DEFAULT_TEXT_TOKENS, TOKENS_AROUND_A_TEXT
from contracts.protocol.tensors import Tensor
from workers.errors import ExecutionFailed, InputsRefused, JobError, ModelUnusable
from workers.models.graph import Arrays, Graph
from workers.models.pipelines.base import Answer, Options, Pipeline, check_parameters
from workers.models.store import Package

if TYPE_CHECKING:
    from tokenizers import Encoding

TEXT = TensorSpec("text", "BYTES", (-1,))
TOKENS = TensorSpec("tokens", "INT64", (-1,))
# Of a text that may be cut, so much is read for each token kept: what lies behind cannot be reached.
BYTES_PER_TOKEN = 128
SAMPLE_TOKENS = 32
MAX_TOKENS = 1 << 17
# A row more in a batch is worth padding of this share of its tokens.
PADDING_FACTOR = 1.5
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


@dataclass(frozen=True, slots=True)
class Texts:
    """One request: token ids and type ids of each text."""

    ids: list[list[int]]
    types: list[list[int]]
    longest: int

    @property
    def tokens(self) -> int:
        """Tokens of all texts together."""
        return sum(map(len, self.ids))


class TextPipeline(Pipeline[Texts]):
    """Base of the pipelines that turn each text into one row of numbers."""

    def __init__(self, package: Package, graph: Graph, options: Options) -> None:
        super().__init__(package, graph)
        self._max_tokens = options.number("max_tokens", DEFAULT_TEXT_TOKENS, 1, MAX_TOKENS)
        self._truncate = options.flag("truncate", default=True)
        options.number("template_tokens", TOKENS_AROUND_A_TEXT, 0, 1 << 24)
        self._tokenizer = self._open_tokenizer()
        self._output = self._pick_output(options.text("outputs_name", ""))
        unknown = sorted(set(graph.inputs) - set(_INPUTS))
        if unknown or "input_ids" not in graph.inputs:
            raise ModelUnusable(
                f"the graph takes {sorted(graph.inputs)}; a text pipeline gives {', '.join(_INPUTS)}.",
                field=self.manifest.entry,
                remedy="Export the model with these inputs, or serve it as task tensor.",
            )

    @property
    def graph_outputs(self) -> Sequence[str]:
        """The one output that is used."""
        return [self._output]

    def prepare(self, tensors: Sequence[Tensor], parameters: Mapping[str, Any]) -> Texts:
        """Tokenize the texts."""
        check_parameters(parameters)
        encodings = self._encode(self.read(tensors))
        for i, one in enumerate(encodings):
            if not len(one):
                raise InputsRefused(f"text {i} has no tokens.", field="text", remedy="Leave empty texts out.")
            if len(one) > self._max_tokens:
                raise self._too_long(i, f"{len(one)} tokens")
        return Texts([one.ids for one in encodings], [one.type_ids for one in encodings], max(map(len, encodings)))

    def read(self, tensors: Sequence[Tensor]) -> Sequence[str | tuple[str, str]]:
        """Return what is tokenized, one for each row of the answer.

        Raises:
            InputsRefused: a text is too long or not UTF-8.
        """
        return self.read_tensor(tensors[0])

    def read_tensor(self, tensor: Tensor) -> list[str]:
        """Return one tensor's texts.

        Raises:
            InputsRefused: one is too long or not UTF-8.
        """
        return [self._read(i, item) for i, item in enumerate(tensor.to_numpy())]

    def _encode(self, texts: Sequence[str | tuple[str, str]]) -> list[Encoding]:
        try:
            encodings: list[Encoding] = self._tokenizer.encode_batch(texts)
        except BaseException as error:
            # A panic of the tokenizer's Rust is no Exception, and would end the worker.
            if type(error).__name__ == "PanicException":
                raise ExecutionFailed("the tokenizer failed on these texts.") from error
            raise
        return encodings

    def group(self, works: Sequence[Texts]) -> list[list[int]]:
        """Join requests of like length, up to the cap in texts."""
        groups: list[list[int]] = []
        rows = 0
        for i in sorted(range(len(works)), key=lambda i: works[i].longest):
            count = len(works[i].ids)
            first = works[groups[-1][0]].longest if groups else 0
            if not groups or rows + count > self.batch_cap or works[i].longest > PADDING_FACTOR * first + 8:
                groups.append([])
                rows = 0
            groups[-1].append(i)
            rows += count
        return groups

    def run(self, works: Sequence[Texts]) -> list[Answer | JobError]:
        """Run all texts of the group, sorted by length, at most the cap at a time."""
        ids = [row for work in works for row in work.ids]
        types = [row for work in works for row in work.types]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        rows: list[NDArray[np.float32] | None] = [None] * len(ids)
        for start in range(0, len(order), self.batch_cap):
            chunk = order[start : start + self.batch_cap]
            inputs, mask = self._inputs([ids[i] for i in chunk], [types[i] for i in chunk])
            values = self.finish(self.graph.run(inputs, [self._output])[self._output], mask)
            if len(values) != len(chunk) or values.ndim != 2:
                raise ExecutionFailed(f"{self._output} is {list(values.shape)} for {len(chunk)} texts.")
            for i, value in zip(chunk, values, strict=True):
                rows[i] = value
        answers: list[Answer | JobError] = []
        end = 0
        for work in works:
            start, end = end, end + len(work.ids)
            block = np.stack([row for row in rows[start:end] if row is not None])
            if not np.isfinite(block).all():
                answers.append(ExecutionFailed("the model gave a number that is not finite."))
                continue
            lengths = np.array([len(row) for row in work.ids], np.int64)
            answers.append(Answer({self.served_output: block, "tokens": lengths}, units=work.tokens))
        return answers

    @property
    def served_output(self) -> str:
        """Name of the output with the rows."""
        raise NotImplementedError

    def finish(self, values: NDArray[Any], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Turn what the graph gave into float32[texts, width]."""
        raise NotImplementedError

    def sample(self, rows: int) -> Arrays:
        """Return texts of 32 tokens."""
        length = min(SAMPLE_TOKENS, self._max_tokens)
        return self._inputs([[1] * length] * rows, [[0] * length] * rows)[0]

    def _open_tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        name = self.manifest.tokenizer
        if name is None:
            raise ModelUnusable(
                "the manifest names no tokenizer.", field="tokenizer", remedy="Put a tokenizer.json into the package."
            )
        try:
            tokenizer = Tokenizer.from_buffer(self.package.read(name))
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelUnusable(f"not a tokenizer.json: {str(error)[:200]}", field=name) from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if self._truncate:
            tokenizer.enable_truncation(self._max_tokens)
        return tokenizer

    def _pick_output(self, wanted: str) -> str:
        if wanted:
            if wanted not in self.graph.outputs:
                raise ModelUnusable(
                    f"the graph gives {sorted(self.graph.outputs)}, no {wanted}.", field="options.outputs_name"
                )
            return wanted
        floats = [n.name for n in self.graph.outputs.values() if n.datatype in ("FP16", "FP32", "FP64")]
        if not floats:
            raise ModelUnusable("the graph gives no floating-point output.", field=self.manifest.entry)
        return next((name for name in self.preferred_outputs if name in floats), floats[0])

    preferred_outputs: Sequence[str] = ()

    def _read(self, index: int, item: bytes) -> str:
        most = self._max_tokens * BYTES_PER_TOKEN
        if len(item) > most:
            if not self._truncate:
                raise self._too_long(index, f"{len(item)} bytes")
            item = _cut(item, most)
        try:
            return item.decode()
        except UnicodeDecodeError as error:
            raise InputsRefused(f"text {index} is not UTF-8.", field="text") from error

    def _too_long(self, index: int, size: str) -> InputsRefused:
        return InputsRefused(
            f"text {index} has {size}; the model takes {self._max_tokens} tokens.",
            field="text",
            remedy="Split the text.",
        )

    def _inputs(
        self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]]
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
        """Pad to the longest at the right; returns the graph's inputs and the mask."""
        longest = max(map(len, ids))
        mask = np.zeros((len(ids), longest), np.int64)
        tokens, kinds = np.zeros_like(mask), np.zeros_like(mask)
        for i, (row, kind) in enumerate(zip(ids, types, strict=True)):
            mask[i, : len(row)] = 1
            tokens[i, : len(row)] = row
            kinds[i, : len(row)] = kind
        made = {
            "input_ids": tokens,
            "attention_mask": mask,
            "token_type_ids": kinds,
            "position_ids": np.broadcast_to(np.arange(longest), mask.shape),
        }
        return {name: made[name].astype(node.dtype) for name, node in self.graph.inputs.items()}, mask


def _cut(item: bytes, most: int) -> bytes:
    """Cut UTF-8 between two characters."""
    for end in range(most, max(most - 4, 0), -1):
        if item[end] & 0xC0 != 0x80:
            return item[:end]
    return item[:most]


def activate(values: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """Apply softmax or sigmoid to each row's scores, or nothing."""
    if kind == "softmax":
        raised = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=-1, keepdims=True), np.float32)
    if kind == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-np.clip(values, -80, 80))), np.float32)
    return values
