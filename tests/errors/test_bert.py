"""Messages on encoders where the types in signatures would say it first."""

import pytest

from zlpr_jax.models._vocabulary import with_vocabulary
from zlpr_jax.models.bert import BertConfig


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "positions",
            "nezha",
            "positions must be one of learned, relative, rotary, got 'nezha'",
        ),
        (
            "activation",
            "silu",
            "activation must be one of gelu, gelu_tanh, relu, got 'silu'",
        ),
    ],
)
def test_names(name, value, words):
    with pytest.raises(ValueError, match=words):
        BertConfig(vocabulary=5, **{name: value})


@pytest.mark.parametrize("ids", [[[1, 2]], [0.5], [True], ["5"], []])
def test_vocabularies(ids):
    config = BertConfig(vocabulary=5)
    with pytest.raises(ValueError, match="keep_tokens must hold lists of ids, got arr"):
        with_vocabulary(config, {}, ids, ())
    with pytest.raises(ValueError, match="compound_tokens must hold lists of ids, got"):
        with_vocabulary(config, {}, None, [[1], ids])
    with pytest.raises(ValueError, match="compound_tokens must hold lists of ids, got"):
        with_vocabulary(config, {}, None, [3])
