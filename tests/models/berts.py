"""Small encoders of every kind, and what they compute, in NumPy and float64."""

import dataclasses
from pathlib import Path

import numpy as np
import safetensors.numpy
from flax import nnx
from scipy.special import erf

from tests.nn import oracles
from zlpr_jax.models.bert import Bert, BertConfig
from zlpr_jax.models.pretrained import from_pretrained

GOLDEN = Path(__file__).parent / "golden"
# of transformers, see golden/write_encoders.py
STORED = safetensors.numpy.load_file(GOLDEN / "outputs.safetensors")
TOKENS, TYPES = (STORED[name].astype(np.int32) for name in ("tokens", "token_types"))
WHERE = STORED["where"]
POSITIONS = ("learned", "relative", "rotary")


def configuration(**settings):
    return BertConfig(
        **{
            **{"vocabulary": 20, "width": 16, "layers": 2, "heads": 2, "hidden": 24},
            **{"max_length": 12, "distance": 2, "dropout": 0.0},
            **{"attention_dropout": 0.0},
            **settings,
        }
    )


def noisy_bert(config, dtype=np.float32):
    return oracles.noisy(lambda: Bert(config, rngs=nnx.Rngs(0)), dtype=dtype)


def with_params(config, params):
    """An encoder with these parameters."""
    model = nnx.eval_shape(lambda: Bert(config, rngs=nnx.Rngs(0)))
    graph, _, state = nnx.split(model, nnx.Param, ...)
    return nnx.merge(graph, params, state)


def golden_bert(name, **changes):
    config, params, _ = from_pretrained(GOLDEN / name)
    return with_params(dataclasses.replace(config, **changes), params)


def run(model, tokens=TOKENS, where=WHERE, token_types=TYPES):
    """Hidden states, and logits and pooled where there are such."""

    @oracles.jit
    def program(tokens, where, token_types):
        hidden = model(tokens, where=where, token_types=token_types)
        outputs = {"hidden": hidden}
        if model.config.masked_head:
            outputs["logits"] = model.masked_logits(hidden)
        if model.config.pooler:
            outputs["pooled"] = model.pooled(hidden)
        return outputs

    return {
        name: np.asarray(x) for name, x in program(tokens, where, token_types).items()
    }


def difference(one, other, name="hidden"):
    """The largest, among real tokens."""
    errors = np.abs(one[name] - other[name])
    return (errors if name == "pooled" else errors[WHERE]).max()


def gelu(x):
    return x / 2 * (1 + erf(x / 2**0.5))


def sinusoids(places, width):
    """`[..., width]`: sines and cosines alternate, at falling rates."""
    vectors = np.zeros((*places.shape, width))
    for i in range(width // 2):
        angles = places / 10000.0 ** (2 * i / width)
        vectors[..., 2 * i], vectors[..., 2 * i + 1] = np.sin(angles), np.cos(angles)
    return vectors


def hidden_states(w, config, tokens, where, *, value_side=True, from_offset=False):
    """BERT, or NEZHA, from its equations.

    Args:
        w: Parameters, float64.
        config: Their shape.
        tokens: `[B, T]`.
        where: `[B, T]`.
        value_side: Whether what is attended to has relative positions.
        from_offset: Whether an offset has its own sinusoids, as the paper says. In the
            program of the published weights the offset -distance has those of 0.
    """
    x = w["tokens"][tokens] + w["token_types"][0]
    if config.positions == "learned":
        x = x + w["positions"][: x.shape[1]]
    x = oracles.layer_norm(x, w["norm"], config.epsilon)
    for layer in range(config.layers):
        of = _layer(w["stack"]["blocks"], layer)
        y = _attention(of["attention"], x, where, config, value_side, from_offset)
        x = oracles.layer_norm(x + y, of["attention_norm"], config.epsilon)
        y = oracles.linear(gelu(oracles.linear(x, of["hidden"])), of["output"])
        x = oracles.layer_norm(x + y, of["output_norm"], config.epsilon)
    return x


def _attention(w, x, where, config, value_side, from_offset):
    count, length, width = x.shape
    d = width // config.heads
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    offset = np.minimum(np.maximum(offset, -config.distance), config.distance)
    a = sinusoids(offset + config.distance * (not from_offset), d)  # [T, T, d]
    a = a if config.positions == "relative" else np.zeros_like(a)
    y = np.zeros_like(x)
    for row in range(count):
        for head in range(config.heads):
            own = slice(head * d, (head + 1) * d)
            q, k = (
                oracles.linear(x[row], w["scores"][0][name])[:, own]
                for name in ("query", "key")
            )
            v = oracles.linear(x[row], w["value"])[:, own]
            logits = (q[:, None] * (k[None] + a)).sum(-1) / d**0.5
            p = oracles.softmax(np.where(where[row], logits, -np.inf))
            y[row, :, own] = p @ v
            if value_side:
                y[row, :, own] += (p[..., None] * a).sum(1)
    return oracles.linear(y, w["output"])


def _layer(tree, layer):
    if isinstance(tree, dict):
        return {name: _layer(value, layer) for name, value in tree.items()}
    return tree[layer]
