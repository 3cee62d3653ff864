"""How many units a request may cost at most, where only the worker learns how many it really takes.

Client, gateway and worker compute the same ceiling from the request alone, without a tokenizer: a token is at least one
byte of text. The ceiling is set aside before the work; what was not served is given back. Counts, never bills: the
worker's receipt says what was served, and it may not say more than the ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from contracts.protocol.errors import InvalidAmount, TensorError
from contracts.protocol.messages import Job
from contracts.protocol.money import split_price
from contracts.protocol.pricing import Unit, count_units, price_up
from contracts.protocol.sealed import declared_units, is_sealed
from contracts.protocol.tensors import Tensor

# What a tokenizer adds around a text, such as [CLS] and [SEP].
TOKENS_AROUND_A_TEXT = 2
MAX_TOKENS_LIMIT = 1 << 20
MAX_CHOICES = 16
DEFAULT_TEXT_TOKENS = 512
DEFAULT_CONTEXT_TOKENS = 2_048
DEFAULT_OUTPUT_TOKENS = 256
DEFAULT_TEMPLATE_TOKENS = 64
_LENGTH_BYTES = 4


class Served(NamedTuple):
    """What the receipt of a served job says of money, atomic units."""

    price: int
    worker_amount: int
    owner_amount: int
    cumulative: int


class Priced(Protocol):
    """What of a model decides how its units are counted, as a manifest says it."""

    @property
    def task(self) -> str:
        """See `Manifest`."""
        ...

    @property
    def unit(self) -> Unit:
        """See `Manifest`."""
        ...

    @property
    def batch_axis(self) -> int | None:
        """See `Manifest`."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """See `Manifest`."""
        ...

    @property
    def is_metered(self) -> bool:
        """See `Manifest`."""
        ...


def ceiling_units(manifest: Priced, tensors: Sequence[Tensor], parameters: Mapping[str, Any]) -> int:
    """Return the most units a request can cost, at least 1; exact where the model is not metered.

    Of a sealed request that is what its client declares.

    Of a text at most `max_tokens` of the manifest's options count; a generation counts its prompt once and the tokens
    that each of its texts may have, prompt and one text together at most the model's context.

    Raises:
        TensorError: the parameter `max_tokens` is not a whole number from 1 to 1,048,576, or `n` none from 1 to 16, or
            `sealed_units` not one from 1 to 2,147,483,647.
    """
    if is_sealed(parameters):
        return declared_units(parameters)
    if not manifest.is_metered:
        return count_units(manifest.unit, tensors, manifest.batch_axis, manifest.options)
    options = manifest.options
    if manifest.task == "text-generation":
        context = int(options.get("context_length", DEFAULT_CONTEXT_TOKENS))
        template = int(options.get("template_tokens", DEFAULT_TEMPLATE_TOKENS))
        prompt = sum(len(tensor.data) for tensor in tensors) + template
        text = min(output_tokens(manifest, parameters), context)
        # A longer prompt leaves less to each text: the most is where both just fit.
        return max(1, min(prompt, context - text) + text * choices(parameters))
    most = int(options.get("max_tokens", DEFAULT_TEXT_TOKENS))
    around = int(options.get("template_tokens", TOKENS_AROUND_A_TEXT))
    return max(1, sum(min(size + around, most) for tensor in tensors for size in _text_sizes(tensor)))


def served_terms(job: Job, units: int) -> Served:
    """Return what a receipt for `units` served says: the job's own terms, or less where those are ceilings.

    Worker and gateway compute the same; the price is rounded up, worker's and owner's shares down.

    Raises:
        InvalidAmount: more units, or a higher price, than the job's ceiling.
    """
    if not job.unit_price:
        return Served(job.price, job.worker_amount, job.owner_amount, job.cumulative)
    price = price_up(job.unit_price, max(units, 0), units_per_price=job.units_per_price)
    if not 1 <= units <= job.units or price > job.price:
        raise InvalidAmount(f"{units} units for {price}, {job.units} for {job.price} allowed.", field="units")
    split = split_price(price, job.royalty_ppm, job.fee_ppm)
    return Served(price, split.worker_amount, split.owner_amount, job.cumulative - (job.price - price))


def output_tokens(manifest: Priced, parameters: Mapping[str, Any]) -> int:
    """Return how many tokens a generation may give: the parameter `max_tokens`, else the manifest's default.

    Raises:
        TensorError: `max_tokens` is not a whole number from 1 to 1,048,576.
    """
    wanted = parameters.get("max_tokens")
    if wanted is None:
        return int(manifest.options.get("max_output_tokens", DEFAULT_OUTPUT_TOKENS))
    if type(wanted) is not int or not 1 <= wanted <= MAX_TOKENS_LIMIT:
        raise TensorError(
            f"max_tokens is {wanted!r:.80}.",
            field="max_tokens",
            remedy=f"Give a whole number from 1 to {MAX_TOKENS_LIMIT}.",
        )
    return wanted


def choices(parameters: Mapping[str, Any]) -> int:
    """Return how many texts a generation gives for its prompt: the parameter `n`, else one.

    Raises:
        TensorError: `n` is not a whole number from 1 to 16.
    """
    wanted = parameters.get("n", 1)
    if type(wanted) is not int or not 1 <= wanted <= MAX_CHOICES:
        raise TensorError(f"n is {wanted!r:.80}.", field="n", remedy=f"Give a whole number from 1 to {MAX_CHOICES}.")
    return wanted


def _text_sizes(tensor: Tensor) -> list[int]:
    """Return the byte length of each text of a BYTES tensor; tensors of other types hold no text."""
    sizes = []
    at, data = 0, tensor.data
    while tensor.datatype == "BYTES" and at < len(data):
        size = int.from_bytes(data[at : at + _LENGTH_BYTES], "little")
        sizes.append(size)
        at += _LENGTH_BYTES + size
    return sizes
