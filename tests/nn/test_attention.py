"""Multi-head attention: masks, dot products, mixtures, against NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from tests.nn import oracles
from zlpr_jax.nn import (
    Attention,
    DenseScores,
    DotProductScores,
    FixedRandomScores,
    Places,
    RandomScores,
    causal_mask,
    masked_softmax,
    segment_mask,
)

WIDTH, HEADS, LENGTH = 16, 4, 6
SLOTS = np.tile(np.arange(LENGTH), (2, 1))
# left padding and two texts in the first row, one text in the second
SEGMENTS = np.array([[0, 1, 1, 1, 2, 2], [1, 1, 1, 1, 0, 0]])
POSITIONS = np.array([[0, 0, 1, 2, 0, 1], [0, 1, 2, 3, 0, 0]])
FLAGS = {
    "plain": {},
    "rotary": {"rotary": True},
    "relative": {"relative": 2},
    "both": {"rotary": True, "relative": 2},
    "biased": {"use_bias": True},
}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def tokens(seed=0, dtype=np.float64, length=LENGTH):
    x = np.random.default_rng(seed).normal(size=(2, length, WIDTH))
    return jnp.asarray(x, dtype)


def dot(**flags):
    return DotProductScores(WIDTH, HEADS, rngs=oracles.rngs(1), **flags)


def places(positions):
    given = jnp.asarray(positions, jnp.int32)
    return Places(given, given)


def packed_mask():
    return causal_mask(LENGTH) & segment_mask(jnp.asarray(SEGMENTS, jnp.int32))


# -- Masks


def test_masked_softmax_agrees_with_numpy():
    rng = np.random.default_rng(0)
    logits = 10 * rng.normal(size=(2, 3, 4, 5))
    mask = rng.random((2, 1, 4, 5)) < 0.5
    mask[0, 0, 1] = False
    assert mask.any(-1).sum() == 7
    with jax.debug_nans(True):  # not even on the way
        got = masked_softmax(jnp.float32(logits), jnp.asarray(mask))
    np.testing.assert_allclose(got, oracles.attended(logits, mask), atol=1e-6)
    assert (got[0, :, 1] == 0).all()
    whole = masked_softmax(jnp.float32(logits), None)
    np.testing.assert_allclose(whole, oracles.softmax(logits), atol=1e-6)


@oracles.jit
def gradient_and_probabilities(logits, mask):
    weight = jnp.array([[[[1.0, 2.0, -3.0], [4.0, 5.0, 6.0]]]])

    def value(logits):
        p = masked_softmax(logits, mask)
        return (p * weight).sum(), p

    return jax.grad(value, has_aux=True)(logits)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_what_is_masked_out_has_no_influence(bad):
    logits = np.float32([[[[0.3, bad, -0.2], [bad, bad, bad]]]])
    mask = np.array([[[[True, False, True], [False, False, False]]]])
    grad, p = gradient_and_probabilities(jnp.asarray(logits), mask)
    clean = gradient_and_probabilities(jnp.asarray(np.where(mask, logits, 0)), mask)
    chex.assert_trees_all_equal((grad, p), clean)
    assert (p[0, 0, 1] == 0).all()
    assert (grad[0, 0, 1] == 0).all()
    assert grad[0, 0, 0, 1] == 0
    assert grad[0, 0, 0, 0] > 0.1


def test_masks():
    i, j = np.indices((LENGTH, LENGTH))
    np.testing.assert_array_equal(causal_mask(LENGTH)[0], j <= i)
    same = (SEGMENTS[:, i] == SEGMENTS[:, j]) & (SEGMENTS[:, i] > 0)
    np.testing.assert_array_equal(segment_mask(jnp.asarray(SEGMENTS)), same)


# -- Dot products


def of_each_other(scores, x, places):
    """Scores of tokens by each other, in one compilation."""
    run = oracles.jit(
        lambda x, places: scores(x, scores.keys(x, places), LENGTH, places)
    )
    return run(x, places)


@pytest.mark.parametrize("name", FLAGS)
def test_dot_product_scores_agree_with_numpy(x64, name):
    flags = FLAGS[name]
    scores = oracles.noisy(lambda: dot(**flags), dtype=np.float64)
    x = tokens()
    flags = {key: flags[key] for key in flags if key != "use_bias"}
    for positions, given in ((SLOTS, Places()), (POSITIONS, places(POSITIONS))):
        got = of_each_other(scores, x, given)
        assert got.dtype == jnp.float64
        expected = oracles.dot_logits(
            oracles.weights(scores), np.asarray(x), HEADS, positions, **flags
        )
        # relative offsets are those of the order, which across texts is another one
        within = np.asarray(packed_mask())[:, None] | (given.queries is None)
        np.testing.assert_allclose(
            np.where(within, got, 0), np.where(within, expected, 0), atol=1e-10
        )


@pytest.mark.parametrize("name", FLAGS)
def test_one_query_among_remembered_keys(name):
    """As in decoding: row t of all scores is that of the query at t alone."""
    scores = oracles.noisy(lambda: dot(**FLAGS[name]))
    x = tokens(dtype=np.float32)
    keys = scores.keys(x, Places())
    whole = of_each_other(scores, x, Places())
    step = oracles.jit(lambda x, at: scores(x, keys, LENGTH, Places(at)))
    for t in range(LENGTH):
        one = step(x[:, t : t + 1], jnp.full((2, 1), t))
        np.testing.assert_allclose(one[:, :, 0], whole[:, :, t], atol=1e-5)


# -- Attention


SCORES = {
    "dot": dot,
    "biased": lambda: dot(use_bias=True),
    "relative": lambda: dot(relative=2),
    "dense": lambda: DenseScores(WIDTH, HEADS, 8, rngs=oracles.rngs()),
    "random": lambda: RandomScores(HEADS, 8, rngs=oracles.rngs()),
    "fixed": lambda: FixedRandomScores(HEADS, 8, rngs=oracles.rngs()),
}
ATTENTIONS = {
    "dot": (["dot"], {}),
    "biased": (["biased"], {"use_bias": True}),
    "relative": (["relative"], {"relative": 2}),
    "random": (["random"], {"relative": 2}),
    "mixture": (["random", "dot", "dense"], {}),
    "one alpha": (["random", "relative"], {"one_alpha": True, "relative": 2}),
    "no input": (["fixed", "random"], {}),
}


def build(name, dtype=np.float32):
    names, flags = ATTENTIONS[name]

    def make():
        scores = [SCORES[one]() for one in names]
        return Attention(WIDTH, HEADS, scores, rngs=oracles.rngs(), **flags)

    return oracles.noisy(make, dtype=dtype)


def expected_attention(attention, x, mask, positions):
    w, x = oracles.weights(attention), np.asarray(x, np.float64)
    logits = []
    for number, scores in enumerate(attention.scores):
        own = w["scores"][number]
        if isinstance(scores, DotProductScores):
            logits.append(
                oracles.dot_logits(own, x, HEADS, positions, relative=scores.relative)
            )
        elif isinstance(scores, DenseScores):
            rows = oracles.dense_rows(own, x, HEADS)
            logits.append(oracles.columns_by_position(rows, positions))
        else:
            logits.append(oracles.by_position(own["matrix"][None], positions))
    return oracles.attention(w, x, logits, mask, positions, relative=attention.relative)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_agrees_with_numpy(x64, name):
    attention = build(name, np.float64)
    x = tokens()
    run = oracles.jit(lambda x, **options: attention(x, **options))

    def check(mask, positions, **options):
        got = run(x, mask=jnp.asarray(mask), **options)
        expected = expected_attention(attention, x, mask[:, None], positions)
        np.testing.assert_allclose(got, expected, atol=1e-10)
        return got

    everything = check(np.ones((1, LENGTH, LENGTH), bool), SLOTS)
    if name == "relative":
        np.testing.assert_allclose(run(x), everything, atol=1e-12)
    check(np.asarray(causal_mask(LENGTH)), SLOTS)
    got = check(np.asarray(packed_mask()), POSITIONS, places=places(POSITIONS))
    assert got.dtype == jnp.float64
    if name != "biased":
        padding = SEGMENTS == 0
        np.testing.assert_array_equal(np.asarray(got)[padding], 0)


def test_gradients(x64):
    attention = build("one alpha", np.float64)

    def output(x):
        return attention(x, mask=packed_mask(), places=places(POSITIONS))

    check_grads(jax.jit(output), (tokens(),), order=1, modes=["rev"], atol=1e-5)


def test_jit_is_eager():
    attention, x = build("one alpha"), tokens(dtype=np.float32)
    mask = causal_mask(LENGTH)
    jitted = oracles.jit(lambda x: attention(x, mask=mask))(x)
    np.testing.assert_allclose(jitted, attention(x, mask=mask), atol=1e-5)


def test_weights_of_a_mixture():
    assert build("mixture").mixture.shape == (3, HEADS)
    assert build("one alpha").mixture.shape == (2, 1)
    assert build("dot").mixture is None
    # all of the weight on one: the others are switched off, in this head
    mixture = build("mixture")
    mixture.mixture[...] = jnp.full((3, HEADS), -1e9).at[1].set(0)
    alone = build("dot")
    alone.scores[0], alone.value, alone.output = (
        mixture.scores[1],
        mixture.value,
        mixture.output,
    )
    x = tokens(dtype=np.float32)
    np.testing.assert_allclose(
        *(oracles.jit(one.__call__)(x) for one in (mixture, alone)), atol=1e-6
    )


def test_softmax_of_bfloat16_tokens_is_float32():
    """Their logits are up to 129: bfloat16 has steps of 1 there."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 300, 4)) + 8, jnp.bfloat16)

    def make():
        scores = DotProductScores(4, 1, rngs=oracles.rngs())
        return Attention(4, 1, [scores], rngs=oracles.rngs())

    attention = oracles.noisy(make, dtype=jnp.bfloat16)
    for layer in (attention.scores[0].query, attention.scores[0].key):
        layer.kernel[...] = jnp.eye(4, dtype=jnp.bfloat16)
    p = oracles.jit(lambda x: attention.probabilities(x, attention.remember(x)))(x)
    chex.assert_type(p, jnp.float32)
    exact = np.asarray(x, np.float64)
    expected = oracles.softmax(exact @ exact.transpose(0, 2, 1) / 2)
    np.testing.assert_allclose(p[0], expected, rtol=1e-3)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    assert jax.eval_shape(attention.__call__, x).dtype == jnp.bfloat16


def test_without_positions_dot_products_follow_a_permutation():
    order = np.random.default_rng(0).permutation(LENGTH)
    x = tokens(dtype=np.float32)
    for name in ("dot", "random", "no input", "relative", "mixture"):
        run = oracles.jit(build(name).__call__)
        difference = np.abs(run(x[:, order]) - run(x)[:, order]).max()
        assert difference < 1e-5 if name == "dot" else difference > 0.1


def test_bad_settings():
    with pytest.raises(ValueError, match="width must be a multiple of heads, got "):
        Attention(WIDTH, 3, [dot()], rngs=oracles.rngs())
    with pytest.raises(ValueError, match="width must be a multiple of heads, got "):
        DotProductScores(WIDTH, 0, rngs=oracles.rngs())
    with pytest.raises(ValueError, match="scores must name at least one module"):
        Attention(WIDTH, HEADS, [], rngs=oracles.rngs())
