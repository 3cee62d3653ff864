"""Choosing the next token from a row of logits, by a random stream of each generation's own. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Sampler:
    """Temperature, the `top_k` likeliest (0: all), the fewest of them that hold `top_p`; the likeliest at 0 degrees."""

    def __init__(self, *, temperature: float, top_p: float, top_k: int, seed: int | None) -> None:
        self._temperature, self._top_p, self._top_k = temperature, top_p, top_k
        self._random = np.random.default_rng(seed)

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Return a token."""
        if not self._temperature or self._top_k == 1:
            return int(logits.argmax())
        # Far below the likeliest, chances round to nothing, and so would a division by the smallest temperatures.
        chances = np.exp((logits - logits.max()) / max(self._temperature, 1e-6), dtype=np.float64)
        tokens = None
        if 0 < self._top_k < len(chances):
            tokens = np.argpartition(chances, -self._top_k)[-self._top_k :]
            chances = chances[tokens]
        if self._top_p < 1:
            order = _likeliest(chances, self._top_p)
            chances, tokens = chances[order], order if tokens is None else tokens[order]
        sums = np.cumsum(chances)
        place = min(int(np.searchsorted(sums, self._random.random() * sums[-1], side="right")), len(sums) - 1)
        return place if tokens is None else int(tokens[place])


def _likeliest(chances: NDArray[np.float64], share: float) -> NDArray[np.int64]:
    """Return the places of the fewest that hold `share` of the chances, the likeliest first; at least one."""
    wanted, size = share * chances.sum(), 256
    while True:
        # A full sort of a large vocabulary takes longer than a small model.
        size = min(size, len(chances))
        top = np.argpartition(chances, -size)[-size:] if size < len(chances) else np.arange(len(chances))
        top = top[np.argsort(-chances[top], kind="stable")]
        sums = np.cumsum(chances[top])
        if sums[-1] >= wanted or size == len(chances):
            return top[: int(np.searchsorted(sums, wanted)) + 1].astype(np.int64)
        size *= 8
