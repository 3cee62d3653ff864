"""What is kept of an answer to be given once more: the outputs as signed, and how a text was cut into its tokens.

The cuts come with the stream and stand in no output; without them a repetition could not say which token each of the
log probabilities belongs to. Pure. Called by the cashier.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from contracts.protocol.tensors import Tensor, unpack_bytes
from market.inference.model import Partial

# Outputs without cuts are kept as they are, and begin with the mark of encoded tensors.
_MARK = b"IMP1"
_COUNT = struct.Struct("<I")
_CUT = struct.Struct("<HIII")
_LOGPROBS, _TEXT = "logprobs", "text"

# Index of the text, tokens, first byte and bytes.
Cut = tuple[int, int, int, int]


def keep(blob: bytes, outputs: Sequence[Tensor], cuts: Sequence[Cut]) -> bytes:
    """Return what to keep of encoded outputs; with the cuts where there are log probabilities of tokens."""
    if not cuts or all(tensor.name != _LOGPROBS for tensor in outputs):
        return blob
    return b"".join((_MARK, _COUNT.pack(len(cuts)), *(_CUT.pack(*cut) for cut in cuts), blob))


def kept(data: bytes) -> tuple[bytes, list[Cut]]:
    """Return the encoded outputs and the cuts, none if there are none."""
    if not data.startswith(_MARK):
        return data, []
    start = len(_MARK) + _COUNT.size
    end = start + _CUT.size * _COUNT.unpack_from(data, len(_MARK))[0]
    return data[end:], list(_CUT.iter_unpack(data[start:end]))


def pieces(request_id: bytes, outputs: Sequence[Tensor], cuts: Sequence[Cut]) -> tuple[Partial, ...]:
    """Cut the texts as they were streamed."""
    if not cuts:
        return ()
    texts = unpack_bytes(next(tensor for tensor in outputs if tensor.name == _TEXT).data, _TEXT)
    return tuple(
        Partial(request_id, texts[index][start : start + size], tokens, index) for index, tokens, start, size in cuts
    )
