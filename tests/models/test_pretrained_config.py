"""Configurations of encoders in files: what is taken, and what is refused."""

import dataclasses
import json

import pytest

from tests.models.berts import GOLDEN
from tests.models.folders import CONFIG, refused, write
from zlpr_jax.models.pretrained import from_pretrained


@pytest.fixture(scope="module")
def bert():
    return from_pretrained(GOLDEN / "bert")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "encoder"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"hidden_act": "gelu_new"}, {"activation": "gelu_tanh"}),
        ({"hidden_act": "gelu_pytorch_tanh"}, {"activation": "gelu_tanh"}),
        ({"hidden_act": "gelu_fast"}, {"activation": "gelu_tanh"}),
        ({"hidden_act": "gelu_python"}, {"activation": "gelu"}),
        ({"hidden_act": "relu"}, {"activation": "relu"}),
        ({"layer_norm_eps": 1e-5}, {"epsilon": 1e-5}),
        ({"hidden_dropout_prob": 0}, {"dropout": 0.0}),
        ({"attention_probs_dropout_prob": 0.3}, {"attention_dropout": 0.3}),
        ({"num_attention_heads": 4}, {"heads": 4}),
        ({"position_embedding_type": "absolute"}, {}),
        ({"position_embedding_type": None, "embedding_size": None}, {}),
        ({"embedding_size": 16, "is_decoder": False}, {}),
        ({"max_relative_position": 7}, {"distance": 7}),
    ],
)
def test_configurations(bert, folder, changes, expected):
    found = from_pretrained(write(folder, config={**CONFIG, **changes})).config
    assert found == dataclasses.replace(bert.config, **expected)


def test_a_short_configuration(bert, folder):
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    names = (*names, "intermediate_size", "max_position_embeddings")
    short = {name: CONFIG[name] for name in names}
    assert from_pretrained(write(folder, config=short)).config == bert.config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key'; only 'absolute' is supported",
        ),
        ({"is_decoder": True}, "is_decoder is True; only False is supported"),
        ({"add_cross_attention": True}, "add_cross_attention is True; only False"),
        (
            {"model_type": "roformer", "rotary_value": True},
            "rotary_value is True; only False is supported",
        ),
        (
            {"model_type": "roformer", "embedding_size": 8},
            "embedding_size is 8 and hidden_size 16; only equal ones are supported",
        ),
        ({"model_type": "albert"}, "model_type is 'albert'; expected bert, nezha, rof"),
        ({"model_type": ["bert"]}, "model_type is .'bert'.; expected bert, nezha, rof"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'; expected one of gelu, "),
        ({"hidden_act": None}, "hidden_act is None; expected one of gelu, "),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"vocab_size": "20"}, "vocab_size must be an integer, got '20'"),
        ({"vocab_size": 20.0}, "vocab_size must be an integer, got 20.0"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be an integer, got True"),
        ({"num_hidden_layers": 0}, "layers must be >= 1, got 0"),
        ({"hidden_size": 10**30}, "hidden_size is out of range, got 1000"),
        ({"num_attention_heads": 3}, "width must be a multiple of heads"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps must be a number, got '1e-12'"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is out of range, got nan"),
        ({"hidden_dropout_prob": 1.5}, r"dropout must be in \[0, 1\), got 1.5"),
    ],
)
def test_configurations_of_other_models(folder, changes, words):
    message = refused(write(folder, config={**CONFIG, **changes}), words)
    assert "config.json: " in message


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, "\ud800"])
def test_what_is_no_configuration(folder, text):
    write(folder)
    content = text.encode("utf-8", "surrogatepass")
    (folder / "config.json").write_bytes(content)
    refused(folder, "config.json: (not a readable|expected a JSON object)")


def test_folders_that_are_none(folder):
    refused(folder, r"no config.json \(Hugging Face\) or bert_config.json")
    folder.mkdir()
    refused(folder, r"no config.json \(Hugging Face\) or bert_config.json")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    refused(folder, "has no model.safetensors")
    for name in ("a.index", "b.index"):
        (folder / name).touch()
    refused(folder, "more than one encoder, a.index, b.index: keep one of them")
    (folder / "b.index").unlink()
    write(folder)
    refused(folder, "more than one encoder, a.index, model.safetensors: keep")
