"""A decoder run for several generations at once: each has a row of one attention cache, wherever the others are.

onnxruntime-genai's own batches begin and end together (docs/adr/0019). Graphs with GroupQueryAttention need not: every
row is told its own length, appends where it stands, and reads nobody else's. `Decoder` holds the cache, `fitness` tries
whether a graph is one of them.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from workers.models.runtime import InferenceSession

Logits: TypeAlias = NDArray[np.float32]

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_KEY_VALUE_DIMENSIONS = 4  # row, head, place, number
# The probe's rows must point where the same tokens read at once point; kernels for one row and several differ a little.
LIKENESS = 0.98
_PROBE = (3, 7)
_PLACES = 256  # rows of so many tokens, or a multiple, fill whole pages


class UnfitDecoder(Exception):
    """This graph's rows cannot run together here; the message says why."""


class _Cache:
    """One of a layer's two tensors: rows of memory that is touched, and counted by the system, as far as it is used."""

    def __init__(self, rows: int, heads: int, places: int, width: int, kind: Any) -> None:
        self.shape, self.kind = (heads, places, width), kind
        self.row_bytes = heads * places * width * np.dtype(kind).itemsize
        if self.row_bytes % mmap.PAGESIZE:
            raise UnfitDecoder("rows of the cache do not fill pages of memory.")
        try:
            self._map = mmap.mmap(-1, rows * self.row_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:  # more than this process may have, though little of it would be touched
            raise UnfitDecoder(f"{rows} rows of {places} tokens find no room.") from error
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.rows = np.frombuffer(self._map, kind).reshape(rows, heads, places, width)

    def forget(self, row: int) -> None:
        """Give a row's memory back."""
        self._map.madvise(mmap.MADV_DONTNEED, row * self.row_bytes, self.row_bytes)


class Decoder:
    """Rows `0` to `count - 1` generate; row `count` may be reading its prompt."""

    def __init__(self, session: InferenceSession, *, rows: int, places: int, heads: int, width: int) -> None:
        self._session = session
        inputs = {one.name: one for one in session.get_inputs()}
        outputs = {one.name: one for one in session.get_outputs()}
        unknown = [n for n in inputs if n not in ("input_ids", "attention_mask", "position_ids") and "past" not in n]
        if unknown or not {"input_ids", "attention_mask"} <= set(inputs) or "logits" not in outputs:
            raise UnfitDecoder(f"the graph takes {', '.join(sorted(unknown) or sorted(inputs)[:4])}.")
        self._positions = "position_ids" in inputs
        self._logits_type = _TYPES.get(outputs["logits"].type)
        self.vocabulary = outputs["logits"].shape[-1]
        if self._logits_type is None or not isinstance(self.vocabulary, int):
            raise UnfitDecoder("its logits are of no usual kind.")
        places = -(-places // _PLACES) * _PLACES
        self._caches: list[tuple[str, str, _Cache]] = []
        for name in (name for name in inputs if "past" in name):
            present = name.replace("past_key_values", "present")
            kind, shape = _TYPES.get(inputs[name].type), inputs[name].shape
            if (
                present not in outputs
                or kind is None
                or len(shape) != _KEY_VALUE_DIMENSIONS
                or any(isinstance(shape[i], int) and shape[i] != size for i, size in ((1, heads), (3, width)))
            ):
                raise UnfitDecoder(f"{name} is no cache of keys or values.")
            self._caches.append((name, present, _Cache(rows, heads, places, width, kind)))
        if not self._caches:
            raise UnfitDecoder("it keeps no cache.")
        self.capacity = rows
        self._bound: dict[tuple[int, int], Any] = {}

    def read(self, row: int, tokens: NDArray[np.int32], seen: int) -> Logits:
        """Read a piece of a prompt after `seen` tokens; returns the logits after its last token."""
        ids = tokens.astype(np.int64)[None]
        mask = np.ones((1, seen + len(tokens)), np.int64)
        positions = np.arange(seen, seen + len(tokens), dtype=np.int64)[None]
        logits: Logits = self._run(row, ids, mask, positions)[0]
        return logits

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Logits:
        """Take a token each for rows 0, 1, …, which have seen `lengths` tokens; returns each row's logits."""
        ids = np.array(tokens, np.int64)[:, None]
        seen = np.array(lengths, np.int64)[:, None]
        mask = (np.arange(int(seen.max()) + 1) <= seen).astype(np.int64)
        return self._run(0, ids, mask, seen)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's cache."""
        for _, _, cache in self._caches:
            cache.rows[target, :, :length] = cache.rows[source, :, :length]

    def forget(self, row: int) -> None:
        """Give a row's memory back."""
        for _, _, cache in self._caches:
            cache.forget(row)

    def _run(self, row: int, ids: NDArray[np.int64], mask: NDArray[np.int64], positions: NDArray[np.int64]) -> Logits:
        rows, length = ids.shape
        logits = np.empty((rows, length, self.vocabulary), self._logits_type)
        binding = self._bound.get((row, rows)) or self._bind(row, rows)
        given = {"input_ids": ids, "attention_mask": mask}
        if self._positions:
            given["position_ids"] = positions
        for name, array in given.items():
            binding.bind_input(name, "cpu", 0, np.int64, array.shape, array.ctypes.data)
        binding.bind_output("logits", "cpu", 0, self._logits_type, logits.shape, logits.ctypes.data)
        self._session.run_with_iobinding(binding)
        return np.asarray(logits[:, -1], np.float32)

    def _bind(self, row: int, rows: int) -> Any:
        binding = self._bound[row, rows] = self._session.io_binding()
        for past, present, cache in self._caches:
            shape, address = (rows, *cache.shape), cache.address + row * cache.row_bytes
            # The same memory before and after: the graph appends in place.
            binding.bind_input(past, "cpu", 0, cache.kind, shape, address)
            binding.bind_output(present, "cpu", 0, cache.kind, shape, address)
        return binding


def fitness(decoder: Decoder) -> int:
    """Try rows of unlike lengths; returns how many must run at least so that each gives the same whoever is beside it.

    One row alone may take a kernel of its own. 0 if no number of rows does that here.

    Raises:
        UnfitDecoder: the rows disturb each other, or the graph does not run so.
    """
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, decoder.vocabulary, size + 1).astype(np.int32) for size in _PROBE]
    try:
        whole = [decoder.read(0, tokens, 0).copy() for tokens in prompts]
        order = [prompts[row % len(prompts)] for row in range(decoder.capacity)]
        for row, tokens in enumerate(order):
            decoder.read(row, tokens[:-1], 0)

        def step(rows: int) -> Logits:
            return decoder.step([int(each[-1]) for each in order[:rows]], [len(each) - 1 for each in order[:rows]])

        pair = step(2)
        for found, expected in zip(pair, whole, strict=True):
            likeness = float(found @ expected / (np.linalg.norm(found) * np.linalg.norm(expected) or 1))
            if not likeness > LIKENESS:
                raise UnfitDecoder(f"rows side by side give something else than alone ({likeness:.3f}).")
        several = [step(rows) for rows in sorted({2, min(3, decoder.capacity), decoder.capacity})]
        if all((row == pair[place % 2]).all() for found in several for place, row in enumerate(found)):
            return 1 if (step(1)[0] == pair[0]).all() else 2
        return 0
    except UnfitDecoder:
        raise
    except Exception as error:  # onnxruntime raises its own unrelated classes
        raise UnfitDecoder(str(error).partition("\n")[0][:200]) from error
    finally:
        for row in range(decoder.capacity):
            decoder.forget(row)
