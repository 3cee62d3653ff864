from dataclasses import replace

import numpy as np
import pytest

from contracts.protocol.errors import InvalidAmount, ManifestError, TensorError
from contracts.protocol.manifest import FileEntry, Manifest, TensorSpec
from contracts.protocol.metering import Served, ceiling_units, output_tokens, served_terms
from contracts.protocol.pricing import Unit
from contracts.protocol.tensors import Tensor
from tests.support.worker import make_job


def manifest(task: str, unit: Unit = Unit.TOKEN, **options) -> Manifest:
    return Manifest(
        task=task,
        entry="model.onnx",
        files={"model.onnx": FileEntry(bytes(32), 1)},
        inputs=(TensorSpec("text", "BYTES", (-1,)),),
        outputs=(TensorSpec("out", "FP32", (-1, 3)),),
        unit=unit,
        batch_axis=0,
        options=options,
    )


def texts(*items: str) -> list[Tensor]:
    return [Tensor.from_numpy("text", np.array(items, dtype=object))]


def test_a_text_costs_at_most_its_bytes_and_what_is_put_around_it():
    assert ceiling_units(manifest("text-embedding"), texts("hello", "hé"), {}) == 5 + 2 + 3 + 2


def test_a_text_costs_at_most_what_the_model_reads_of_it():
    assert ceiling_units(manifest("text-classification", max_tokens=8), texts("a" * 100, "bc"), {}) == 8 + 4


def test_no_texts_cost_one_unit():
    assert ceiling_units(manifest("text-embedding"), texts(), {}) == 1


def test_a_generation_costs_at_most_prompt_and_completion():
    model = manifest("text-generation", context_length=1_000, template_tokens=10, max_output_tokens=7)
    prompt = texts("x" * 20)
    assert ceiling_units(model, prompt, {}) == 24 + 10 + 7
    assert ceiling_units(model, prompt, {"max_tokens": 100}) == 24 + 10 + 100
    assert ceiling_units(model, prompt, {"max_tokens": 5_000}) == 1_000


@pytest.mark.parametrize(
    ("size", "most", "texts_wanted"), [(20, 100, 3), (900, 200, 4), (5_000, 300, 2), (20, 5_000, 16)]
)
def test_several_texts_cost_at_most_what_any_length_of_prompt_allows(size, most, texts_wanted):
    model = manifest("text-generation", context_length=1_000, template_tokens=10)
    ceiling = ceiling_units(model, texts("x" * size), {"max_tokens": most, "n": texts_wanted})
    possible = range(1, min(size + 4 + 10, 999) + 1)
    dearest = max(tokens + texts_wanted * min(most, 1_000 - tokens) for tokens in possible)
    assert dearest <= ceiling < dearest + texts_wanted


@pytest.mark.parametrize("wanted", [0, 17, 1.0, "2", True, None])
def test_the_number_of_texts_is_bounded(wanted):
    with pytest.raises(TensorError) as error:
        ceiling_units(manifest("text-generation"), texts("x"), {"n": wanted})
    assert error.value.field == "n"


@pytest.mark.parametrize("wanted", [0, -1, 1.5, "3", True, 1 << 21])
def test_max_tokens_must_be_a_sensible_number(wanted):
    with pytest.raises(TensorError) as error:
        output_tokens(manifest("text-generation"), {"max_tokens": wanted})
    assert error.value.field == "max_tokens"


def test_what_is_not_metered_is_counted_exactly():
    rows = manifest("text-embedding", Unit.ROW)
    assert not rows.is_metered
    assert ceiling_units(rows, texts("a", "b", "c"), {}) == 3
    assert not manifest("tensor").is_metered


@pytest.mark.parametrize("value", ["64", -1, 1.5, None, True])
def test_a_manifest_with_a_nonsense_token_count_is_refused(value):
    bad = replace(manifest("text-embedding"), options={"max_tokens": value})
    with pytest.raises(ManifestError) as error:
        Manifest.parse(bad.to_bytes())
    assert error.value.field == "options.max_tokens"


def metered_job(units=100, unit_price=7, **changes):
    job, _ = make_job(manifest("text-embedding"), texts("a"))
    return replace(job, units=units, unit_price=unit_price, price=units * unit_price, cumulative=10_000, **changes)


def test_a_receipt_says_what_was_served_and_takes_the_rest_off_the_channel():
    job = metered_job(royalty_ppm=100_000, fee_ppm=50_000)
    assert served_terms(job, 100) == Served(700, 595, 70, 10_000)
    assert served_terms(job, 11) == Served(77, 65, 7, 10_000 - 623)


def test_of_a_price_for_many_units_a_part_is_charged_rounded_up():
    job = replace(metered_job(unit_price=250_000), units_per_price=1_000_000, price=25)
    assert served_terms(job, 100) == Served(25, *served_terms(job, 100)[1:3], 10_000)
    assert [served_terms(job, units).price for units in (1, 4, 5, 99)] == [1, 1, 2, 25]
    with pytest.raises(InvalidAmount):
        served_terms(replace(job, price=24), 100)


def test_tokens_are_metered_whatever_number_of_them_a_price_is_for():
    by_the_million = manifest("text-generation", Unit.MILLION_TOKENS, context_length=100)
    assert by_the_million.is_metered
    assert ceiling_units(by_the_million, texts("a"), {}) == ceiling_units(
        manifest("text-generation", context_length=100), texts("a"), {}
    )


def test_a_job_of_fixed_price_keeps_its_terms():
    job = replace(metered_job(), unit_price=0)
    assert served_terms(job, 0) == Served(job.price, job.worker_amount, job.owner_amount, 10_000)


@pytest.mark.parametrize("units", [0, -1, 101])
def test_more_than_the_ceiling_cannot_be_charged(units):
    with pytest.raises(InvalidAmount) as error:
        served_terms(metered_job(), units)
    assert error.value.field == "units"


def test_a_price_above_the_ceiling_cannot_be_charged():
    with pytest.raises(InvalidAmount):
        served_terms(replace(metered_job(), price=100), 20)
