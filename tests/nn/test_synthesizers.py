"""The Synthesizer family against NumPy, the paper's parameter counts and its claims."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.nn import oracles
from zlpr_jax.nn import (
    Attention,
    DenseScores,
    DotProductScores,
    FactorizedDenseScores,
    FactorizedRandomScores,
    FixedRandomScores,
    Places,
    RandomScores,
    functionalize,
)

WIDTH, HEADS, MAX, LENGTH = 16, 4, 12, 6
D = WIDTH
MAKE = {
    "dense": lambda **flags: DenseScores(D, HEADS, MAX, rngs=oracles.rngs(), **flags),
    "factorized-dense": lambda **flags: FactorizedDenseScores(
        D, HEADS, MAX, factors=(4, 3), rngs=oracles.rngs(), **flags
    ),
    "random": lambda: RandomScores(HEADS, MAX, rngs=oracles.rngs()),
    "fixed-random": lambda: FixedRandomScores(HEADS, MAX, rngs=oracles.rngs()),
    "factorized-random": lambda: FactorizedRandomScores(
        HEADS, MAX, rank=2, rngs=oracles.rngs()
    ),
    "dot": lambda **flags: DotProductScores(D, HEADS, rngs=oracles.rngs(), **flags),
}
FLAGS = {
    "dense": MAKE["dense"],
    "dense by head": lambda: MAKE["dense"](by_head=True),
    "dense without bias": lambda: MAKE["dense"](use_bias=False),
    "dense by head without bias": lambda: MAKE["dense"](by_head=True, use_bias=False),
    "factorized-dense": MAKE["factorized-dense"],
    "factorized-dense by head": lambda: MAKE["factorized-dense"](by_head=True),
    "random": MAKE["random"],
    "fixed-random": MAKE["fixed-random"],
    "factorized-random": MAKE["factorized-random"],
}
BY_TOKEN = ("dense", "factorized-dense")
BY_POSITION = ("random", "fixed-random", "factorized-random")
SYNTHESIZERS = BY_TOKEN + BY_POSITION
each_synthesizer = pytest.mark.parametrize("name", SYNTHESIZERS)
SLOTS = np.tile(np.arange(LENGTH), (2, 1))
POSITIONS = np.array([[0, 0, 1, 2, 3, 11], [5, 4, 3, 9, 1, 0]])


def tokens(dtype=jnp.float32, length=LENGTH):
    x = np.random.default_rng(0).normal(size=(2, length, D))
    return jnp.asarray(x, dtype)


def rows_and_columns(name, scores, x):
    """What a token sees of all N positions: `[B, H, T, N]`, or `[1, H, N, N]`."""
    w, x = oracles.weights(scores), np.asarray(x, np.float64)
    if name.startswith("dense"):
        return oracles.dense_rows(w, x, HEADS)
    if name.startswith("factorized-dense"):
        return oracles.factorized_dense_rows(w, x, HEADS, (4, 3))
    if name == "factorized-random":
        return np.einsum("hir,hjr->hij", w["rows"], w["columns"])[None]
    return w["matrix"][None]


# -- Equations


@pytest.mark.parametrize("name", FLAGS)
def test_scores_agree_with_numpy(name):
    with jax.enable_x64(True):
        scores = oracles.noisy(FLAGS[name], dtype=np.float64)
        x = tokens(jnp.float64)
        run = oracles.jit(lambda x, places: scores(x, None, LENGTH, places))
        table = rows_and_columns(name, scores, x)
        given = jnp.asarray(POSITIONS, jnp.int32)
        for positions, places in ((SLOTS, Places()), (POSITIONS, Places(given, given))):
            got = run(x, places)
            assert got.dtype == jnp.float64
            if name in BY_POSITION:
                expected = oracles.by_position(table, positions)
                assert len(got) == (1 if places.queries is None else 2)
            else:
                expected = oracles.columns_by_position(table, positions)
            expected = expected[: len(got)]
            np.testing.assert_allclose(got, expected, atol=1e-12)


@each_synthesizer
def test_one_query_among_remembered_positions(name):
    """As in decoding: keys at 0, ..., S - 1, more of them than queries."""
    scores, x = oracles.noisy(MAKE[name]), tokens()
    table = rows_and_columns(name, scores, x)
    run = oracles.jit(lambda x, at: scores(x, None, MAX, Places(at)))
    at = np.array([[3], [7]])
    got = run(x[:, 3:4], jnp.asarray(at, jnp.int32))
    chex.assert_shape(got, (2, HEADS, 1, MAX))
    rows = (3, 3) if name in BY_TOKEN else (3, 7)
    for row, one in enumerate(got):
        expected = table[row % len(table)][:, rows[row]]
        np.testing.assert_allclose(one[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("factors", [(16, 16), (4, 8), (8, 4), (300, 1), (1, 300)])
def test_columns_of_factorized_dense_are_distinct(factors):
    """Tiling both factors alike gives lcm(a, b): 16 of 256, and 8 of 32."""
    count = factors[0] * factors[1]
    scores = oracles.noisy(
        lambda: FactorizedDenseScores(
            D, 1, count, factors=factors, by_head=True, rngs=oracles.rngs()
        )
    )
    rows = oracles.jit(lambda x: scores(x, None, count, Places()))(tokens())
    columns = np.asarray(rows).reshape(-1, count)
    assert len(np.unique(columns, axis=1).T) == count


def test_default_factors():
    for count in range(1, 70):
        a, b = nnx.eval_shape(
            lambda: FactorizedDenseScores(4, 1, count, rngs=oracles.rngs())
        ).factors
        assert a * (b - 1) < count <= a * b
        assert b <= a <= b + 1


def test_bad_factors():
    for factors in ((3, 3), (0, 100), (-4, -4)):
        with pytest.raises(ValueError, match="must be at least max_length = 12, got"):
            FactorizedDenseScores(D, 4, 12, factors=factors, rngs=oracles.rngs())
    for make in (DenseScores, FactorizedDenseScores):
        with pytest.raises(ValueError, match="width must be a multiple of heads"):
            make(D, 3, 12, rngs=oracles.rngs())


def test_random_scores_begin_small_and_independent():
    rngs = oracles.rngs()
    for scores in (
        RandomScores(4, 64, rngs=rngs),
        FixedRandomScores(4, 64, rngs=rngs),
        FactorizedRandomScores(4, 64, rank=8, rngs=rngs),
    ):
        logits = scores(jnp.zeros((1, 64, 4)), None, 64, Places())
        np.testing.assert_allclose(logits.std(), 0.02, rtol=0.05)
        assert abs(logits.mean()) < 0.002
        heads = np.asarray(logits[0]).reshape(4, -1)
        assert np.abs(np.corrcoef(heads) - np.eye(4)).max() < 0.1


# -- Parameters

PAPER = {
    "dense": D**2 + D * MAX,
    "dense by head": D**2 // HEADS + D * MAX,
    "factorized-dense": D**2 + D * (4 + 3),
    "factorized-dense by head": D**2 // HEADS + D * (4 + 3),
    "random": HEADS * MAX**2,
    "fixed-random": 0,
    "factorized-random": 2 * HEADS * MAX * 2,
    "dot": 2 * D**2,
}
BIASES = {
    "dense": D + HEADS * MAX,
    "dense by head": D + HEADS * MAX,
    "factorized-dense": D + HEADS * (4 + 3),
    "factorized-dense by head": D + HEADS * (4 + 3),
    "dot": 2 * D,
}


def build(name, **flags):
    kind = name.removesuffix(" by head")
    return MAKE[kind](**flags, **({"by_head": True} if kind != name else {}))


def count(make):
    params = nnx.state(nnx.eval_shape(make), nnx.Param)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", PAPER)
def test_parameters_are_those_of_the_paper(name):
    if name not in BIASES:
        assert count(lambda: build(name)) == PAPER[name]
        return
    assert count(lambda: build(name, use_bias=False)) == PAPER[name]
    assert count(lambda: build(name, use_bias=True)) == PAPER[name] + BIASES[name]


@pytest.mark.parametrize(
    "names", [("dot",), ("random", "dot"), ("dense", "dot"), SYNTHESIZERS]
)
def test_parameters_of_attention(names):
    for one_alpha in (False, True):

        def attention(one_alpha=one_alpha):
            scores = [build(name) for name in names]
            return Attention(D, HEADS, scores, one_alpha=one_alpha, rngs=oracles.rngs())

        biases = sum(BIASES[name] for name in names if name in BY_TOKEN)
        alpha = (1 if one_alpha else HEADS) * len(names) if len(names) > 1 else 0
        expected = sum(PAPER[name] for name in names) + biases + alpha + 2 * D**2
        assert count(attention) == expected


# -- What a query depends on


@pytest.mark.parametrize("name", [*SYNTHESIZERS, "dot"])
def test_what_scores_depend_on(name):
    """The gradient of row i of the logits with respect to token j."""
    scores = oracles.noisy(MAKE[name])

    def logits(x):
        return scores(x, scores.keys(x, Places()), LENGTH, Places())

    x = tokens()
    whole = jax.eval_shape(logits, x)
    cotangent = np.zeros((LENGTH, *whole.shape), np.float32)
    for i in range(LENGTH):
        cotangent[i, 0, :, i] = np.random.default_rng(i).normal(size=(HEADS, LENGTH))
    pull = oracles.jit(lambda x, rows: jax.vmap(jax.vjp(logits, x)[1])(rows)[0])
    grads = np.asarray(pull(x, cotangent))
    influence = np.abs(grads).max(-1)  # [i, row of the batch, j]
    assert (influence[:, 1] == 0).all()
    own = np.eye(LENGTH, dtype=bool)
    if name in BY_POSITION:
        assert (influence == 0).all()
    elif name in BY_TOKEN:
        assert (influence[:, 0][~own] == 0).all()
        assert (influence[:, 0][own] > 0).all()
    else:
        assert (influence[:, 0] > 0).all()


def memory_of(*makers):
    """What attention must know of tokens, as shapes."""

    def remember():
        scores = [make() for make in makers]
        return Attention(D, HEADS, scores, rngs=oracles.rngs()).remember(tokens())

    return jax.eval_shape(remember)


@each_synthesizer
def test_no_keys_are_needed(name):
    memory = memory_of(MAKE[name])
    assert memory.keys == (None,)
    chex.assert_shape(memory.values, (2, LENGTH, HEADS, D // HEADS))


def test_only_dot_products_remember_keys():
    memory = memory_of(MAKE["random"], MAKE["dot"], MAKE["dense"])
    assert memory.keys[0] is None
    chex.assert_shape(memory.keys[1], (2, LENGTH, HEADS, D // HEADS))
    assert memory.keys[2] is None


# -- Length


@each_synthesizer
def test_more_positions_than_there_are(name):
    scores = oracles.noisy(MAKE[name])
    words = r"13 positions, but the synthesizer was made for max_length = 12"
    run = oracles.jit(
        lambda x, size, places: scores(x, None, size, places), static_argnums=1
    )
    with pytest.raises(ValueError, match=words):
        run(tokens(length=13), 13, Places())
    with pytest.raises(ValueError, match=words):  # as in decoding
        run(tokens(length=1), 13, Places(jnp.zeros((2, 1), int)))
    # a position that is out of range is only known at run time
    at = jnp.array([[11], [12]])
    got = run(tokens(length=1), MAX, Places(at))
    assert np.isfinite(got[0]).all()
    if name in BY_POSITION:
        assert np.isnan(got[1]).all()
    got = run(tokens(length=1), 1, Places(jnp.zeros_like(at), at))
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1]).all()


# -- Fixed Random


def test_fixed_random_is_no_parameter():
    """See `test_fixed_random_survives_training` of the decoder."""
    random, fixed = (oracles.noisy(MAKE[name]) for name in ("random", "fixed-random"))
    _, params, state = functionalize(fixed)
    assert not params
    chex.assert_shape(state["matrix"], (HEADS, MAX, MAX))
    _, params, state = functionalize(random)
    chex.assert_shape(params["matrix"], (HEADS, MAX, MAX))
    assert not state
