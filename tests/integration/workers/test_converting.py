"""PyTorch and GGUF checkpoints, tiny and made at random, as their owner publishes them: converted, packed, tried, served.

Needs the extra [convert-torch], which `make install` leaves out for its size.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from contracts.protocol.tensors import Tensor
from tests.integration.workers.test_model_commands import run
from tests.support import demands, models, tiny_llm
from workers import checking
from workers.errors import ModelUnusable
from workers.making.process import make
from workers.making.told import read_converted
from workers.models.converting import convert
from workers.models.opening import open_model
from workers.models.sandbox import Confinement

EXTRA = "the extra [convert-torch] is not installed"
torch = pytest.importorskip("torch", reason=EXTRA)
transformers = pytest.importorskip("transformers", reason=EXTRA)
pytest.importorskip("onnxscript", reason=EXTRA)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

TEXTS = ["the cat sat on the mat", "a dog"]


def save(folder, model, tokenizer=None, special=None):
    """Write a checkpoint as it is downloaded."""
    torch.manual_seed(0)
    model.save_pretrained(folder)
    if tokenizer is not None:
        (folder / "tokenizer.json").write_bytes(tokenizer)
        said = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32} | (special or {})
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def bert(kind, **changes):
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(models.WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        **changes,
    )
    return kind(config).eval()


SPECIAL = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def served(tmp_path, folder, task):
    """Pack what was made, have it checked as an owner would, and open it as a worker would."""
    made = run(tmp_path, "market", "model", "init", folder)
    assert made["task"] == task
    found = run(tmp_path, "market", "model", "check", folder)
    assert found["problems"] == []
    package = checking.open_folder(folder)
    return open_model(package, entry=package.manifest.entry, provider="cpu", threads=1)


def answers(model, tensor):
    (answer,) = model.run([model.prepare([tensor], {})])
    return answer.outputs


def test_an_embedding_model_gives_what_pytorch_gives(tmp_path):
    model = bert(transformers.BertModel)
    source = save(tmp_path / "checkpoint", model, models.tokenizer_json(), SPECIAL)
    said = convert(source, tmp_path / "made")
    assert (said.task, said.architecture, said.precision) == ("text-embedding", "BertModel", "fp32")
    assert said.apart < 1e-4
    opened = served(tmp_path, tmp_path / "made", "text-embedding")
    vectors = answers(opened, Tensor.from_numpy("text", np.array(TEXTS, dtype=object)))["embedding"]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(models.tokenizer_json().decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            mean = model(ids).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_a_classifier_keeps_its_labels(tmp_path):
    labels = dict(enumerate(models.LABELS))
    model = bert(transformers.BertForSequenceClassification, id2label=labels, num_labels=3)
    source = save(tmp_path / "checkpoint", model, models.tokenizer_json(), SPECIAL)
    convert(source, tmp_path / "made")
    opened = served(tmp_path, tmp_path / "made", "text-classification")
    assert list(opened.manifest.options["labels"]) == models.LABELS
    scores = answers(opened, Tensor.from_numpy("text", np.array(TEXTS, dtype=object)))["scores"]
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_pictures_are_classified(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    config.id2label = dict(enumerate(models.LABELS))
    model = transformers.ViTForImageClassification(config).eval()
    source = save(tmp_path / "checkpoint", model)
    assert convert(source, tmp_path / "made").apart < 1e-4
    served(tmp_path, tmp_path / "made", "image-classification")


def llama():
    torch.manual_seed(2)
    config = transformers.LlamaConfig(
        vocab_size=tiny_llm.VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=tiny_llm.END,
        eos_token_id=tiny_llm.END,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():  # it writes plain characters only, and goes on for ever
        model.lm_head.weight[:33] = model.lm_head.weight[127:] = 0
    return model


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_a_language_model_is_built_for_generation(tmp_path, precision):
    pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")
    special = {name: value for name, value in tiny_llm.TOKENIZER_CONFIG.items() if name != "tokenizer_class"}
    source = save(tmp_path / "checkpoint", llama(), tiny_llm.tokenizer_json(), special)
    said = convert(source, tmp_path / "made", precision=precision)
    assert (said.task, said.precision, said.apart) == ("text-generation", precision, None)
    made = run(tmp_path, "market", "model", "init", tmp_path / "made")
    assert made["task"] == "text-generation"
    found = run(tmp_path, "market", "model", "check", tmp_path / "made")
    assert found["problems"] == []
    assert {"textTrial", "chatTrial"} <= set(found)


@pytest.mark.parametrize("weights", ["F32", "Q8_0"])
def test_a_gguf_file_is_built_for_generation(tmp_path, monkeypatch, weights):
    gguf = pytest.importorskip("gguf", reason=EXTRA)
    pytest.importorskip("accelerate", reason=EXTRA)
    pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")
    write_gguf(gguf, tmp_path / "tiny.gguf", llama(), weights)
    monkeypatch.chdir(tmp_path)
    said = convert(Path("tiny.gguf"), Path("made"))
    assert (said.task, said.architecture) == ("text-generation", "GGUF")
    run(tmp_path, "market", "model", "init", tmp_path / "made")
    found = run(tmp_path, "market", "model", "check", tmp_path / "made")
    assert found["problems"] == []
    assert "textTrial" in found


def write_gguf(gguf, path, model, weights="F32"):
    """Write a model of ours as llama.cpp's converter would; a tokenizer of bytes. Norms stay in 32 bits."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = json.loads(tiny_llm.tokenizer_json())
    words = sorted(vocabulary["model"]["vocab"], key=vocabulary["model"]["vocab"].get)
    words[255] = "Ġt"  # what the one merge makes; no text has the byte 255
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * (len(words) - 256))
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(tiny_llm.END)
    writer.add_eos_token_id(tiny_llm.END)
    writer.add_chat_template(tiny_llm.TOKENIZER_CONFIG["chat_template"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        array = value.numpy()
        kind = name.split(".")[-2]
        if kind in heads:  # llama.cpp turns the halves of each head's rows into pairs
            count = heads[kind]
            array = array.reshape(count, 2, array.shape[0] // count // 2, -1).swapaxes(1, 2).reshape(array.shape)
        array, called = np.ascontiguousarray(array), names.get_name(name, try_suffixes=(".weight",))
        if weights == "F32" or array.ndim == 1:
            writer.add_tensor(called, array)
        else:
            packed = gguf.GGMLQuantizationType[weights]
            writer.add_tensor(called, gguf.quants.quantize(array, packed), raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("broken", ["weights", "architecture"])
def test_what_cannot_be_loaded_is_told_and_leaves_nothing(tmp_path, broken):
    source = save(tmp_path / "checkpoint", bert(transformers.BertModel), models.tokenizer_json(), SPECIAL)
    if broken == "weights":
        (source / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    else:
        config = json.loads((source / "config.json").read_text())
        config |= {"auto_map": {"AutoModel": "own.Own"}, "model_type": "own"}
        (source / "config.json").write_text(json.dumps(config))
        (source / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelUnusable) as refused:
        convert(source, tmp_path / "made")
    assert refused.value.field == "path"
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "ran").exists(), "no code of a checkpoint is run"


class Payload:
    """What a pickle may hold that is no weight."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("confined", ["here", "alone", "bubblewrap"])
@pytest.mark.parametrize("kind", ["embedding", "generation"])
def test_a_pickle_that_is_more_than_weights_is_refused_unread(tmp_path, confined, kind):
    work = tmp_path / "work"
    work.mkdir()
    model = bert(transformers.BertModel) if kind == "embedding" else llama()
    tokenizer = models.tokenizer_json() if kind == "embedding" else tiny_llm.tokenizer_json()
    source = save(work / "checkpoint", model, tokenizer)
    (source / "model.safetensors").unlink()
    weights = model.state_dict()
    torch.save(weights, source / "pytorch_model.bin")
    orders = {"read": read_converted, "task": None, "precision": "fp32"}
    orders["confinement"] = None if confined == "here" else Confinement(_sandbox(confined), 1 << 30)
    if kind == "embedding":
        assert make("convert", source, work / "good", **orders).apart < 1e-4
    torch.save({**weights, "more": Payload(work / "ran")}, source / "pytorch_model.bin")
    with pytest.raises(ModelUnusable) as refused:
        make("convert", source, work / "made", **orders)
    assert "weights" in refused.value.detail.lower()
    assert not (work / "made").exists()
    assert not (work / "ran").exists()


def _sandbox(confined):
    return demands.sandbox() if confined == "bubblewrap" else None


@pytest.mark.parametrize("kind", ["embedding", "gguf"])
def test_a_checkpoint_is_converted_in_the_sandbox(tmp_path, kind):
    confinement = Confinement(demands.sandbox(), 1 << 30)
    if kind == "embedding":
        path = save(tmp_path / "checkpoint", bert(transformers.BertModel), models.tokenizer_json(), SPECIAL)
    else:
        gguf = pytest.importorskip("gguf", reason=EXTRA)
        pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")
        path = tmp_path / "tiny.gguf"
        write_gguf(gguf, path, llama())
    orders = {"read": read_converted, "task": None, "precision": "fp32"}
    said = make("convert", path, tmp_path / "made", confinement=confinement, **orders)
    assert said.task == ("text-embedding" if kind == "embedding" else "text-generation")
    assert (tmp_path / "made" / ("config.json" if kind == "embedding" else "genai_config.json")).is_file()
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(["made", path.name])


def test_the_commands_convert_and_refuse(tmp_path):
    source = save(tmp_path / "checkpoint", bert(transformers.BertModel), models.tokenizer_json(), SPECIAL)
    said = run(tmp_path, "worker", "convert", source, tmp_path / "made")
    assert (said["task"], said["folder"]) == ("text-embedding", str(tmp_path / "made"))
    error = run(tmp_path, "worker", "convert", source, tmp_path / "made", status=1)["error"]
    assert (error["code"], error["field"]) == ("model-unusable", "into")
