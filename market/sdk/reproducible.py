"""How far honest answers of a model may lie apart, by the operators that its graph uses.

What the gateway audits it holds against this; owners may say it themselves. Called by `market.sdk.drafts`.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

# Of all activations of a batch together one scale is made, by kernels that differ from one CPU to the next: a
# neighbour in the batch moves a vector of all-MiniLM-L6-v2 int8 by up to 0.14, relative L2 (docs/owners.md).
INT8_TOLERANCE = 0.25
_INT8 = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
    }
)
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
# How many rows come out hangs on which side of a bound a score falls.
_COUNTING = frozenset({"NonMaxSuppression"})


def tolerance_by(operators: AbstractSet[str]) -> tuple[float, str] | None:
    """Return the relative L2 distance to allow and why, 0 if answers cannot be compared; None if the usual one does."""
    for names, tolerance, why in (
        (_RANDOM, 0, "it draws at random, so that no two answers are alike"),
        (_COUNTING, 0, "how much it answers hangs on the last bits of its scores"),
        (_INT8, INT8_TOLERANCE, "its activations are rounded, differently on other processors and in other batches"),
    ):
        found = sorted(names & operators)
        if found:
            return tolerance, f"{', '.join(found[:3])}: {why}"
    return None
