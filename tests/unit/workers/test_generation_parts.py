"""The pieces of text generation that need no model: choosing a token, and the graph that stands in for a decoder."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workers.models.generation.sampling import Sampler

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def draw(count=4_000, logits=LOGITS, **options):
    sampler = Sampler(**{"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 1} | options)
    return np.bincount([sampler.choose(logits) for _ in range(count)], minlength=len(logits)) / count


SHARES = {
    "as they are": ({}, [0.5, 0.3, 0.15, 0.05]),
    "the two likeliest": ({"top_k": 2}, [0.625, 0.375, 0, 0]),
    "more than there are": ({"top_k": 9}, [0.5, 0.3, 0.15, 0.05]),
    "the fewest that hold 0.6": ({"top_p": 0.6}, [0.625, 0.375, 0, 0]),
    "the likeliest holds as much": ({"top_p": 0.4}, [1, 0, 0, 0]),
    "nothing to hold": ({"top_p": 0.0}, [1, 0, 0, 0]),
    "of three, the fewest that hold 0.6": ({"top_k": 3, "top_p": 0.6}, [0.625, 0.375, 0, 0]),
    "half as warm": ({"temperature": 0.5}, np.array([0.25, 0.09, 0.0225, 0.0025]) / 0.365),
    "cold": ({"temperature": 0.0}, [1, 0, 0, 0]),
    "all but cold": ({"temperature": 1e-12}, [1, 0, 0, 0]),
}


@pytest.mark.parametrize(("options", "shares"), SHARES.values(), ids=SHARES.keys())
def test_tokens_are_drawn_by_their_chances(options, shares):
    np.testing.assert_allclose(draw(**options), shares, atol=0.03)


def test_the_fewest_are_found_in_a_large_flat_vocabulary_too():
    shares = draw(20_000, np.zeros(5_000, np.float32), top_p=0.5)
    assert (shares > 0).sum() == pytest.approx(2_500, rel=0.02)


def test_a_seed_fixes_the_stream():
    texts = [[sampler.choose(LOGITS) for _ in range(50)] for sampler in (Sampler(**FIXED), Sampler(**FIXED))]
    other = Sampler(**FIXED | {"seed": 8})
    assert texts[0] == texts[1] != [other.choose(LOGITS) for _ in range(50)]


FIXED = {"temperature": 1.0, "top_p": 0.95, "top_k": 0, "seed": 7}


def test_the_graph_in_place_of_a_decoder_is_the_one_that_it_is_said_to_be():
    language = pytest.importorskip("workers.models.generation.language", reason="the extra [llm] is not installed")
    floats, numbers = TensorProto.FLOAT, TensorProto.INT64
    names = [f"past_key_values.0.{kind}" for kind in ("key", "value")]
    presents = [f"present.0.{kind}" for kind in ("key", "value")]
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["input_ids"], ["shape"]),
            helper.make_node("Concat", ["shape", "vocabulary"], ["whole"], axis=0),
            helper.make_node("ConstantOfShape", ["whole"], ["logits"]),
            helper.make_node("Cast", ["input_ids"], ["floats"], to=floats),
            helper.make_node("Unsqueeze", ["floats", "axes"], ["new"]),
            *(
                helper.make_node("Concat", [past, "new"], [present], axis=2)
                for past, present in zip(names, presents, strict=True)
            ),
        ],
        "words",
        [
            helper.make_tensor_value_info("input_ids", numbers, ["b", "s"]),
            *(helper.make_tensor_value_info(name, floats, ["b", 1, "p", 1]) for name in names),
        ],
        [
            helper.make_tensor_value_info("logits", floats, ["b", "s", "v"]),
            *(helper.make_tensor_value_info(name, floats, ["b", 1, "q", 1]) for name in presents),
        ],
        [
            numpy_helper.from_array(np.frombuffer(language.VOCABULARY_MARK, "<i8"), "vocabulary"),
            numpy_helper.from_array(np.array([1, 3]), "axes"),
        ],
    )
    expected = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = onnx.load_from_string(language.EMPTY_GRAPH)
    assert (found.graph, found.opset_import, found.ir_version) == (expected.graph, expected.opset_import, 8)
    assert language.EMPTY_GRAPH.count(language.VOCABULARY_MARK) == 1
