import io

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from tokenizers import Tokenizer

from contracts.protocol.metering import ceiling_units
from contracts.protocol.tensors import Tensor
from tests.support import models
from workers.errors import ExecutionFailed, InputsRefused, ModelUnusable
from workers.models.sessions import SessionCache


def load(tmp_path, write, **changes):
    manifest = write(tmp_path / "source", **changes)
    return SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30).get(
        models.fetched(tmp_path / "source", manifest)
    )


def texts(*items):
    return [Tensor.from_numpy("text", np.array(items, dtype=object))]


def ask(pipeline, *requests, parameters=None):
    """Answer requests as a worker does, in the groups that the pipeline makes."""
    works = [pipeline.prepare(tensors, parameters or {}) for tensors in requests]
    answers = [None] * len(works)
    for group in pipeline.group(works):
        for i, answer in zip(group, pipeline.run([works[i] for i in group]), strict=True):
            answers[i] = answer
    return answers


def reference_ids(text):
    tokenizer = Tokenizer.from_str(models.tokenizer_json().decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer.encode(text).ids


def reference_embedding(text):
    session = onnxruntime.InferenceSession(models.embedder())
    ids = np.array([reference_ids(text)])
    hidden = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
    mean = hidden.mean(axis=0)
    return mean / np.linalg.norm(mean)


SENTENCES = ("the cat sat on the mat", "a dog", "the dog ran far away from home today and the cat sat", "")


def test_embeddings_are_those_of_onnxruntime_one_by_one(tmp_path):
    pipeline = load(tmp_path, models.embedding_package)
    (answer,) = ask(pipeline, texts(*SENTENCES))
    expected = np.stack([reference_embedding(text) for text in SENTENCES])
    np.testing.assert_allclose(answer.outputs["embedding"], expected, atol=1e-6)
    assert answer.outputs["tokens"].tolist() == [len(reference_ids(text)) for text in SENTENCES]
    assert answer.units == sum(len(reference_ids(text)) for text in SENTENCES)


@pytest.mark.parametrize("cap", [1, 3, 64])
def test_requests_run_together_and_each_gets_its_own_rows(tmp_path, cap):
    pipeline = load(tmp_path, models.embedding_package)
    pipeline.batch_cap = cap
    requests = [SENTENCES[:2], SENTENCES[1:3], ("cat",), SENTENCES]
    for sentences, answer in zip(requests, ask(pipeline, *(texts(*one) for one in requests)), strict=True):
        expected = np.stack([reference_embedding(text) for text in sentences])
        np.testing.assert_allclose(answer.outputs["embedding"], expected, atol=1e-6)


def test_short_texts_do_not_wait_for_long_ones_in_a_batch(tmp_path):
    pipeline = load(tmp_path, models.embedding_package, max_tokens=500)
    pipeline.batch_cap = 64
    works = [pipeline.prepare(texts("cat " * n), {}) for n in (1, 400, 2, 3, 390)]
    assert sorted(map(sorted, pipeline.group(works))) == [[0, 2, 3], [1, 4]]


def test_long_texts_are_cut_and_counted_as_cut(tmp_path):
    pipeline = load(tmp_path, models.embedding_package, max_tokens=6)
    (answer,) = ask(pipeline, texts("cat " * 10_000))
    np.testing.assert_allclose(answer.outputs["embedding"][0], reference_embedding("cat cat cat cat"), atol=1e-6)
    assert answer.units == 6


def test_long_texts_are_refused_where_the_model_does_not_cut(tmp_path):
    pipeline = load(tmp_path, models.embedding_package, max_tokens=6, truncate=False)
    assert ask(pipeline, texts("cat cat cat cat"))[0].units == 6
    for text in ("cat cat cat cat cat", "cat " * 10_000):
        with pytest.raises(InputsRefused, match=r"text 1 has .* takes 6 tokens") as error:
            pipeline.prepare(texts("ok", text), {})
        assert error.value.field == "text"


@pytest.mark.parametrize(
    ("options", "expect"),
    [
        ({"pooling": "cls"}, lambda hidden: hidden[0]),
        ({"pooling": "last"}, lambda hidden: hidden[-1]),
        ({"pooling": "mean"}, lambda hidden: hidden.mean(axis=0)),
    ],
)
def test_pooling_is_what_the_manifest_says(tmp_path, options, expect):
    pipeline = load(tmp_path, models.embedding_package, normalize=False, **options)
    session = onnxruntime.InferenceSession(models.embedder())
    for text, answer in zip(SENTENCES, ask(pipeline, *(texts(one) for one in SENTENCES)), strict=True):
        ids = np.array([reference_ids(text)])
        hidden = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
        np.testing.assert_allclose(answer.outputs["embedding"][0], expect(hidden), atol=1e-6)


def test_vectors_are_cut_to_the_dimensions_served_and_stay_of_length_one(tmp_path):
    pipeline = load(tmp_path, models.embedding_package, width=4, dimensions=4)
    (answer,) = ask(pipeline, texts("the cat"))
    assert answer.outputs["embedding"].shape == (1, 4)
    assert np.linalg.norm(answer.outputs["embedding"]) == pytest.approx(1, abs=1e-6)


def test_texts_are_scored_as_onnxruntime_does(tmp_path):
    pipeline = load(tmp_path, models.text_classifier_package)
    session = onnxruntime.InferenceSession(models.classifier())
    (answer,) = ask(pipeline, texts(*SENTENCES))
    for text, row in zip(SENTENCES, answer.outputs["scores"], strict=True):
        ids = np.array([reference_ids(text)])
        logits = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0].astype("f8")
        np.testing.assert_allclose(row, np.exp(logits) / np.exp(logits).sum(), atol=1e-6)


def test_pairs_are_ranked_as_onnxruntime_does_and_cost_their_tokens(tmp_path):
    pipeline = load(tmp_path, models.ranker_package)
    query, documents = "the cat", ["a dog", "the cat sat on the mat", "the cat " * 40]
    queries = Tensor.from_numpy("query", np.array([query] * 3, dtype=object))
    alone = [Tensor.from_numpy("query", np.array(["home"], dtype=object)), *texts("a dog")]
    answer, other = ask(pipeline, [queries, *texts(*documents)], alone)
    session, tokenizer = onnxruntime.InferenceSession(models.ranker()), models.pair_tokenizer()
    tokenizer.enable_truncation(16)
    asked = [(query, document) for document in documents] + [("home", "a dog")]
    rows = np.concatenate([answer.outputs["scores"], other.outputs["scores"]])
    lengths = []
    for (first, second), row in zip(asked, rows, strict=True):
        one = tokenizer.encode(first, second)
        lengths.append(len(one.ids))
        given = {"input_ids": one.ids, "attention_mask": [1] * len(one.ids), "token_type_ids": one.type_ids}
        logit = session.run(None, {name: np.array([value]) for name, value in given.items()})[0]
        np.testing.assert_allclose(row, 1 / (1 + np.exp(-logit[0])), atol=1e-6)
    assert answer.outputs["tokens"].tolist() == lengths[:3]
    assert (answer.units, other.units) == (sum(lengths[:3]), lengths[3])
    assert max(lengths) == 16
    most = ceiling_units(pipeline.manifest, [queries, *texts(*documents)], {})
    assert answer.units <= most


def picture(kind="PNG", size=(20, 12), colour=(200, 30, 90)):
    image = Image.new("RGB", size, colour)
    image.putpixel((0, 0), (0, 0, 0))
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def images(*files):
    return [Tensor.from_numpy("image", np.array(files, dtype=object))]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_images_are_scored_as_onnxruntime_does(tmp_path, kind):
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    pipeline = load(tmp_path, models.image_classifier_package, mean=mean, std=std, activation="none")
    data = picture(kind)
    (answer,) = ask(pipeline, images(data, data))
    small = Image.open(io.BytesIO(data)).convert("RGB").resize((8, 8), Image.Resampling.BILINEAR)
    pixels = ((np.asarray(small, "f4") / 255 - mean) / std).astype("f4").transpose(2, 0, 1)[None]
    expected = onnxruntime.InferenceSession(models.image_classifier()).run(None, {"pixels": pixels})[0][0]
    np.testing.assert_allclose(answer.outputs["scores"], [expected, expected], atol=1e-5)


def test_sixteen_bits_of_grey_are_scored_as_eight(tmp_path):
    pipeline = load(tmp_path, models.image_classifier_package, activation="none")
    grey = np.arange(256).reshape(16, 16)
    files = []
    for pixels in (grey.astype("u1"), (grey * 257).astype("<u2")):
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        files.append(data.getvalue())
    assert [Image.open(io.BytesIO(data)).mode for data in files] == ["L", "I;16"]
    (answer,) = ask(pipeline, images(*files))
    np.testing.assert_array_equal(answer.outputs["scores"][0], answer.outputs["scores"][1])


def test_the_middle_of_an_image_is_cut_out(tmp_path):
    pipeline = load(tmp_path, models.image_classifier_package, crop_percent=100, mean=[0.0] * 3, std=[1.0] * 3)
    wide = Image.new("RGB", (48, 16), (255, 0, 0))
    wide.paste((0, 0, 255), (16, 0, 32, 16))
    data = io.BytesIO()
    wide.save(data, "PNG")
    blue = picture(size=(16, 16), colour=(0, 0, 255))
    middle, plain = ask(pipeline, images(data.getvalue()), images(blue))
    np.testing.assert_allclose(middle.outputs["scores"], plain.outputs["scores"], atol=0.02)


def bomb(edge):
    """A PNG of some KiB with very many pixels."""
    data = io.BytesIO()
    Image.new("1", (edge, edge)).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cannot be read"),
        (b"GIF89a" + bytes(40), "cannot be read"),
        (picture()[:60], "cannot be read"),
        (picture("JPEG")[:-200], "cannot be read"),
        (bomb(20_000), "more than 40000000 pixels"),
        (bomb(7_000), "more than 40000000 pixels"),
    ],
    ids=["empty", "gif", "cut png", "cut jpeg", "bomb", "small bomb"],
)
def test_a_broken_image_fails_alone_and_is_named(tmp_path, data, words):
    pipeline = load(tmp_path, models.image_classifier_package)
    pipeline.batch_cap = 8
    good, bad, also_good = ask(pipeline, images(picture()), images(picture(), data), images(picture()))
    assert good.outputs["scores"].shape == also_good.outputs["scores"].shape == (1, 3)
    assert isinstance(bad, InputsRefused)
    assert "image 1" in bad.detail
    assert words in bad.detail


def test_too_many_images_are_refused(tmp_path):
    pipeline = load(tmp_path, models.image_classifier_package)
    with pytest.raises(InputsRefused, match="17 images, 16 allowed"):
        pipeline.prepare(images(*[picture()] * 17), {})


@pytest.mark.parametrize("write", [models.embedding_package, models.text_classifier_package])
def test_texts_that_are_no_text_are_refused(tmp_path, write):
    pipeline = load(tmp_path, write)
    with pytest.raises(InputsRefused, match="text 1 is not UTF-8"):
        pipeline.prepare(texts("ok", b"\xff\xfe"), {})
    long = ("ä" * 2_000).encode()  # cut between two characters, not in the middle of one
    assert ask(pipeline, texts(b"a" + long))[0].units == 3
    with pytest.raises(InputsRefused, match="not UTF-8"):
        pipeline.prepare(texts(b"\x80" * 5_000), {})


@pytest.mark.parametrize(
    ("write", "tensors"),
    [(models.embedding_package, texts("a")), (models.image_classifier_package, images(picture()))],
)
def test_an_unknown_parameter_is_named(tmp_path, write, tensors):
    pipeline = load(tmp_path, write)
    with pytest.raises(InputsRefused, match="no parameter 'temperature'") as error:
        pipeline.prepare(tensors, {"temperature": 1})
    assert error.value.field == "parameters.temperature"


@pytest.mark.parametrize(
    ("write", "options", "field"),
    [
        (models.embedding_package, {"pooling": "none"}, "options.pooling"),
        (models.embedding_package, {"pooling": "sum"}, "options.pooling"),
        (models.embedding_package, {"dimensions": 9}, "options.dimensions"),
        (models.embedding_package, {"width": 7}, "outputs"),
        (models.embedding_package, {"normalize": "yes"}, "options.normalize"),
        (models.embedding_package, {"outputs_name": "pooler"}, "options.outputs_name"),
        (models.embedding_package, {"normalise": True}, "options.normalise"),
        (models.text_classifier_package, {"labels": ["a"]}, "options.labels"),
        (models.text_classifier_package, {"activation": "relu"}, "options.activation"),
        (models.image_classifier_package, {"std": [0.0, 1.0, 1.0]}, "options.std"),
        (models.image_classifier_package, {"mean": [0.5]}, "options.mean"),
        (models.image_classifier_package, {"layout": "CHW"}, "options.layout"),
    ],
)
def test_options_that_do_not_fit_the_model_are_named(tmp_path, write, options, field):
    with pytest.raises(ModelUnusable) as error:
        load(tmp_path, write, **options)
    assert error.value.field == field


def test_a_panic_of_the_tokenizer_fails_the_job_and_not_the_worker(tmp_path):
    class PanicException(BaseException):
        pass

    class Panicking:
        def encode_batch(self, texts):
            raise PanicException

    pipeline = load(tmp_path, models.embedding_package)
    pipeline._tokenizer = Panicking()
    with pytest.raises(ExecutionFailed):
        pipeline.prepare(texts("a"), {})


def test_bfloat16_goes_in_and_comes_out_by_its_bits_joined_with_others(tmp_path):
    pipeline = load(tmp_path, models.bfloat16_package)
    bits = [np.array([[0x3F80, 0xBFC0]], "<u2"), np.array([[0x7F7F, 0x0000], [0x4049, 0x8000]], "<u2")]
    requests = [[Tensor("x", "BF16", rows.shape, rows.tobytes())] for rows in bits]
    for answer, rows in zip(ask(pipeline, *requests), bits, strict=True):
        given = Tensor.from_numpy("y", answer.outputs["y"])
        assert (given.datatype, given.shape, bytes(given.data)) == ("BF16", rows.shape, rows.tobytes())
        np.testing.assert_array_equal(answer.outputs["z"], (rows.astype("<u4") << 16).view("<f4"))
    assert given.to_marked_numpy().dtype == answer.outputs["y"].dtype


def test_an_output_of_all_rows_together_is_never_divided_among_clients(tmp_path):
    pipeline = load(tmp_path, models.summary_package)
    pipeline.batch_cap = 8
    rows = [np.array([[1, 2]], "f4"), np.array([[30, 40]], "f4")]
    answers = ask(pipeline, *[[Tensor.from_numpy("x", one)] for one in rows])
    for answer, one in zip(answers, rows, strict=True):
        np.testing.assert_array_equal(answer.outputs["twice"], 2 * one)
        np.testing.assert_array_equal(answer.outputs["sum"], one[0])
