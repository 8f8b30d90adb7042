"""How large the states of optimizers are, in bytes."""

import math

import jax
import jax.numpy as jnp
import optax
import pytest

from zlpr_jax.optim import adafactor, adax, adaxw, factored_adax, state_nbytes


def bert_base():
    """Shapes of BERT-base with the attention kernels of flax."""
    width, heads, hidden, layers = 768, 12, 3072, 12
    norm = {"scale": (width,), "bias": (width,)}
    split = {"kernel": (width, heads, 64), "bias": (heads, 64)}
    layer = {
        "query": split,
        "key": split,
        "value": split,
        "out": {"kernel": (heads, 64, width), "bias": (width,)},
        "attention_norm": norm,
        "intermediate": {"kernel": (width, hidden), "bias": (hidden,)},
        "output": {"kernel": (hidden, width), "bias": (width,)},
        "output_norm": norm,
    }
    shapes = {
        "word": (30522, width),
        "position": (512, width),
        "type": (2, width),
        "norm": norm,
        "layers": {str(index): layer for index in range(layers)},
        "pooler": {"kernel": (width, width), "bias": (width,)},
    }
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def test_bytes_of_bert_base():
    params = bert_base()
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    n = sum(map(math.prod, shapes))
    assert n == 109_482_240
    # Each matrix is 768 wide, its attention kernels being (768, 768).
    wide = [math.prod(s) // 768 for s in shapes if math.prod(s) >= 128 * 768]
    kept = sum(math.prod(s) for s in shapes if math.prod(s) < 128 * 768)
    assert len(wide) == 2 + 12 * 6 + 1
    factored = 4 * sum(rows + 768 for rows in wide) + 4 * kept
    counts = 4 * 2
    assert state_nbytes(adafactor(), params) == factored + counts
    assert (factored + counts) / n <= 0.013
    assert state_nbytes(factored_adax(), params) == factored + counts
    assert state_nbytes(adafactor(momentum=0.9), params) == factored + counts + 4 * n
    assert state_nbytes(optax.adamw(1e-3), params) == 8 * n + 4


@pytest.mark.parametrize(
    ("build", "of_matrix", "of_vector"),
    [
        (adafactor, lambda n, m: [(n,), (m,)], 1),
        (factored_adax, lambda n, m: [(n,), (m,)], 1),
        (adax, lambda n, m: [(n, m)] * 2, 2),
        (adaxw, lambda n, m: [(n, m)] * 2, 2),
        (lambda: adax(b1=0.0), lambda n, m: [(n, m)], 1),
    ],
    ids=["adafactor", "factored_adax", "adax", "adaxw", "adax without b1"],
)
def test_bytes_are_the_formula_and_no_leaf_is_a_placeholder(
    build, of_matrix, of_vector
):
    n, m = 384, 256
    params = {
        "matrix": jax.ShapeDtypeStruct((n, m), jnp.bfloat16),
        "vector": jax.ShapeDtypeStruct((m,), jnp.float32),
    }
    tx = build()
    state = jax.eval_shape(tx.init, params)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    expected = [*of_matrix(n, m), *[(m,)] * of_vector]
    assert sorted(leaf.shape for leaf in moments) == sorted(expected)
    counts = len(jax.tree.leaves(state)) - len(moments)
    assert 1 <= counts <= 2
    moment_bytes = 4 * sum(map(math.prod, expected))
    assert state_nbytes(tx, params) == moment_bytes + 4 * counts
    concrete = jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params)
    assert state_nbytes(tx, concrete) == moment_bytes + 4 * counts
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(tx.init(concrete))) == (
        moment_bytes + 4 * counts
    )


def test_bytes_of_keys_of_random_numbers():
    params, noise = {"w": jnp.ones(3)}, optax.add_noise(0.1, 0.5, jax.random.key(0))
    assert jnp.issubdtype(noise.init(params).rng_key.dtype, jax.dtypes.prng_key)
    assert state_nbytes(noise, params) == 4 + 8
    several = optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2)
    assert state_nbytes(several, params) == 12 + 12 + 4 + 4
