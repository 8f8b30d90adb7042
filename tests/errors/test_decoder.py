"""Messages on decoders where the types in signatures would say it first."""

import pytest

from zlpr_jax.models.decoder import DecoderConfig
from zlpr_jax.models.generation import Sampling


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "attention",
            ("dot", "linear"),
            "attention must name one or more of dot, dense, ",
        ),
        ("attention", "dot", "attention must name one or more of dot, dense, "),
        (
            "positions",
            "nezha",
            "positions must be one of learned, rotary, relative, none, ",
        ),
        ("norm", "rms", "norm must be one of pre, post, got 'rms'"),
    ],
)
def test_names(name, value, words):
    with pytest.raises(ValueError, match=words):
        DecoderConfig(vocabulary=5, max_length=5, **{name: value})


@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty"])
def test_numbers(name):
    with pytest.raises(TypeError, match=f"{name} must be a number in .* got '0.5'"):
        Sampling(**{name: "0.5"})
