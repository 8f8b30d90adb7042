"""Small decoders of every kind, full of noise, and what they compute, compiled once."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.nn import oracles
from zlpr_jax.models.decoder import COMPONENTS, Decoder, DecoderConfig

LENGTH, MAX, WIDTH, HEADS, LAYERS = 8, 14, 16, 2, 2
MIXTURES = (("dense", "dot"), ("random", "dot"))
# rotary positions act on dot products alone
KINDS = [
    (attention, positions)
    for attention in (*((one,) for one in COMPONENTS), *MIXTURES)
    for positions in ("learned", "relative", "rotary", "none")
    if positions != "rotary" or "dot" in attention
]
KINDS += [(("fixed-random", "factorized-dense", "dot"), "relative")]
IDS = ["+".join(attention) + " " + positions for attention, positions in KINDS]

# a row for each place, and no token twice: each has an embedding of its own
VOCABULARY = LENGTH**2 + 1
TOKENS = 1 + np.random.default_rng(0).permutation(LENGTH**2).reshape(LENGTH, LENGTH)
TOKENS = TOKENS.astype(np.int32)
# of prompts, whose rows are then read to the end
LENGTHS = np.array([1, 2, 3, 4, 4, 3, 1, 2], np.int32)
PROMPTS = TOKENS[:, : LENGTHS.max()].copy()
PROMPTS[np.arange(LENGTHS.max()) >= LENGTHS[:, None]] = 7  # not what follows
# padding before, after and between, and two texts in one row
SEGMENTS = np.zeros((4, MAX), np.int32)
POSITIONS = np.zeros((4, MAX), np.int32)
PLACES = [  # of the first tokens of rows of TOKENS: (row, places in a row of SEGMENTS)
    [(0, range(6, 14))],
    [(1, range(0, 8))],
    [(2, [1, 2, 4, 7, 8, 9, 12, 13])],
    [(3, range(1, 5)), (4, range(5, 12))],
]
PACKED = np.zeros((4, MAX), np.int32)
for _row, _texts in enumerate(PLACES):
    for _number, (_text, _places) in enumerate(_texts, 1):
        _places = list(_places)
        PACKED[_row, _places] = TOKENS[_text, : len(_places)]
        SEGMENTS[_row, _places] = _number
        POSITIONS[_row, _places] = np.arange(len(_places))


def configuration(attention=("dot",), positions="learned", **flags):
    settings = {
        "vocabulary": VOCABULARY,
        "max_length": MAX,
        "width": WIDTH,
        "layers": LAYERS,
        "heads": HEADS,
        "hidden": 2 * WIDTH,
        "distance": 3,
        "rank": 2,
        "tied": False,
    }
    return DecoderConfig(
        attention=attention, positions=positions, **{**settings, **flags}
    )


def noisy_decoder(config, dtype=np.float32, scale=0.3):
    return oracles.noisy(lambda: Decoder(config, rngs=nnx.Rngs(0)), scale, dtype=dtype)


class Runs(NamedTuple):
    """What a decoder computes of TOKENS in different ways.

    Attributes:
        logits: `[B, T, V]`, in one call.
        influence: `[T, T]`, the gradient of the logits at place i, in row i, with
            respect to the embedding of token j of that row.
        cached: As `logits`, from prompts of LENGTHS, token by token; 0 before.
        packed: `[4, MAX, V]`, of PACKED.
    """

    logits: np.ndarray
    influence: np.ndarray
    cached: np.ndarray
    packed: np.ndarray


@functools.cache
def runs(attention, positions):
    """All in one compilation, which is nearly all of what these tests cost."""
    model = noisy_decoder(configuration(attention, positions))
    graph, table, rest = nnx.split(model, lambda path, _: path == ("embedding",), ...)
    weight = np.random.default_rng(1).normal(size=(LENGTH, LENGTH, VOCABULARY))
    weight = np.float32(np.eye(LENGTH)[..., None] * weight)

    def program(table, tokens, prompts, packed):
        logits, pull = jax.vjp(
            lambda table: nnx.merge(graph, table, rest)(tokens), table
        )
        (grads,) = jax.tree.leaves(pull(weight))
        influence = jnp.linalg.norm(grads[tokens], axis=-1)

        model, rows = nnx.merge(graph, table, rest), jnp.arange(LENGTH)
        first, state = model.begin(prompts, jnp.asarray(LENGTHS), room=LENGTH)

        def step(state, _):
            place = state.lengths
            last = tokens.at[rows, place].get(mode="fill", fill_value=0)
            logits, state = model.extend(last[:, None], state)
            return state, (place, logits[:, 0])

        _, (places, others) = jax.lax.scan(step, state, length=LENGTH - 1)
        cached = jnp.zeros_like(logits).at[rows, LENGTHS - 1].set(first)
        cached = cached.at[rows[None], places].set(others, mode="drop")

        positions = jnp.asarray(POSITIONS)
        packed = model(packed, positions=positions, segments=jnp.asarray(SEGMENTS))
        return Runs(logits, influence, cached, packed)

    found = oracles.jit(program)(table, *map(jnp.asarray, (TOKENS, PROMPTS, PACKED)))
    return jax.tree.map(np.asarray, found)
