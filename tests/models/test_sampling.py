"""The choice of the next token, against the distribution in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chisquare

from tests.nn import oracles
from zlpr_jax.models.decoder import GREEDY
from zlpr_jax.models.generation import Sampling, choose_tokens

VOCABULARY, DRAWS = 12, 100_000
LOGITS = np.float32(1.5 * np.random.default_rng(0).normal(size=VOCABULARY))
CHOOSE = oracles.jit(choose_tokens, static_argnums=1)


def expected(logits, sampling):
    """Probabilities of all tokens, by sorting and adding up."""
    logits = np.float64(logits) / sampling.temperature
    order = np.argsort(-logits, kind="stable")
    kept = order[: sampling.top_k]
    if sampling.top_p is not None:
        total, few = 0.0, []
        for token, p in zip(kept, softmax(logits[kept]), strict=True):
            few.append(token)
            total += p
            if total >= sampling.top_p:
                break
        kept = np.array(few)
    p = np.zeros(len(logits))
    p[kept] = softmax(logits[kept])
    return p


def draw(logits, sampling, seed=0, count=DRAWS):
    rows = jnp.tile(jnp.asarray(logits)[None], (count, 1))
    tokens = CHOOSE(rows, sampling, jax.random.key(seed))
    chex.assert_type(tokens, jnp.int32)
    return np.bincount(tokens, minlength=len(logits))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 2.5},
        {"top_k": 4},
        {"top_k": VOCABULARY},
        {"top_p": 0.8},
        {"top_p": 1.0},
        {"temperature": 1.7, "top_k": 7, "top_p": 0.75},
    ],
    ids=str,
)
def test_draws_have_the_distribution(settings):
    sampling = Sampling(**settings)
    p = expected(LOGITS, sampling)
    counts = draw(LOGITS, sampling)
    assert (counts[p == 0] == 0).all()
    assert chisquare(counts[p > 0], DRAWS * p[p > 0]).pvalue > 1e-3
    # and of no other: without the settings, or with a little less of one
    for other in (Sampling(), Sampling(temperature=sampling.temperature * 0.9)):
        q = expected(LOGITS, other)
        if np.abs(p - q).max() > 1e-6:
            assert chisquare(counts, DRAWS * q).pvalue < 1e-6


def test_the_token_that_reaches_top_p_is_kept():
    logits = np.log(np.float32([0.125, 0.5, 0.125, 0.25]))  # exact in float32
    for top_p, kept in (
        (1e-9, {1}),
        (0.49, {1}),
        (0.51, {1, 3}),
        (0.74, {1, 3}),
        (0.76, {0, 1, 3}),
        (0.86, {0, 1, 3}),
        (0.89, {0, 1, 2, 3}),
        (1.0, {0, 1, 2, 3}),
    ):
        counts = draw(logits, Sampling(top_p=top_p), count=1000)
        assert set(np.flatnonzero(counts)) == kept


def test_top_k_is_before_top_p():
    """Of two, the first has 4/7: enough. Of all it has 0.4."""
    logits = np.log(np.float32([0.4, 0.3, 0.2, 0.1]))
    counts = draw(logits, Sampling(top_k=2, top_p=0.5), count=1000)
    assert set(np.flatnonzero(counts)) == {0}
    counts = draw(logits, Sampling(top_p=0.5), count=1000)
    assert set(np.flatnonzero(counts)) == {0, 1}


def test_temperature_is_before_top_p():
    logits = np.log(np.float32([0.6, 0.3, 0.1]))
    hot = Sampling(temperature=100.0, top_p=0.5)
    assert set(np.flatnonzero(draw(logits, hot, count=1000))) == {0, 1}
    cold = Sampling(temperature=1.0, top_p=0.5)
    assert set(np.flatnonzero(draw(logits, cold, count=1000))) == {0}


@pytest.mark.parametrize("temperature", [1e-4, 1e-30])
@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"top_p": 0.5}], ids=str)
def test_cold_is_greedy(temperature, settings):
    rows = jnp.float32(np.random.default_rng(1).normal(size=(500, VOCABULARY)))
    cold = Sampling(temperature=temperature, **settings)
    chosen = CHOOSE(rows, cold, jax.random.key(0))
    np.testing.assert_array_equal(chosen, rows.argmax(-1))
    np.testing.assert_array_equal(chosen, CHOOSE(rows, GREEDY, jax.random.key(1)))
    one = CHOOSE(rows, Sampling(top_k=1), jax.random.key(2))
    np.testing.assert_array_equal(chosen, one)


def test_greedy_takes_the_first_of_equal_ones():
    rows = jnp.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    greedy = Sampling(greedy=True, temperature=9.0, top_k=2, top_p=0.1)
    assert CHOOSE(rows, greedy, jax.random.key(0)).tolist() == [1, 0]


def test_repetition_penalty():
    rng = np.random.default_rng(2)
    logits = np.float32(2 * rng.normal(size=(400, VOCABULARY)))
    seen = rng.random(logits.shape) < 0.5
    lowered = np.where(logits > 0, logits / 1.8, logits * 1.8)
    expected_ = np.where(seen, lowered, logits).argmax(-1)
    greedy = Sampling(greedy=True, repetition_penalty=1.8)
    got = CHOOSE(jnp.asarray(logits), greedy, jax.random.key(0), jnp.asarray(seen))
    np.testing.assert_array_equal(got, expected_)
    assert (expected_ != logits.argmax(-1)).any()
    # less than 1 favours what there is
    favoured = Sampling(greedy=True, repetition_penalty=0.5)
    got = CHOOSE(jnp.asarray(logits), favoured, jax.random.key(0), jnp.asarray(seen))
    higher = np.where(seen, np.where(logits > 0, logits * 2, logits / 2), logits)
    np.testing.assert_array_equal(got, higher.argmax(-1))
    # without tokens that were seen it does nothing
    got = CHOOSE(jnp.asarray(logits), greedy, jax.random.key(0))
    np.testing.assert_array_equal(got, logits.argmax(-1))


def test_repetition_penalty_is_before_temperature_and_top_p():
    logits = np.float32([2.0, 1.0, -1.0, 0.0])
    seen = np.array([True, False, True, False])
    sampling = Sampling(temperature=0.5, top_p=0.9, repetition_penalty=3.0)
    rows = jnp.tile(jnp.asarray(logits)[None], (DRAWS, 1))
    mask = jnp.tile(jnp.asarray(seen)[None], (DRAWS, 1))
    counts = np.bincount(CHOOSE(rows, sampling, jax.random.key(3), mask), minlength=4)
    p = expected([2 / 3, 1.0, -3.0, 0.0], sampling)
    assert (counts[p == 0] == 0).all()
    assert chisquare(counts[p > 0], DRAWS * p[p > 0]).pvalue > 1e-3


def test_draws_are_of_the_key():
    rows = jnp.zeros((200, VOCABULARY))
    for sampling in (Sampling(), Sampling(top_k=9)):
        one, same, other = (
            CHOOSE(rows, sampling, jax.random.key(seed)) for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()
        assert len(np.unique(one)) > 3  # equal rows draw independently


def test_what_has_no_probability_is_not_drawn():
    logits = LOGITS.copy()
    logits[::2] = -np.inf
    for sampling in (
        Sampling(temperature=5.0),
        Sampling(top_k=11),
        Sampling(top_p=1.0),
    ):
        counts = draw(logits, sampling, count=2000)
        assert (counts[::2] == 0).all()
        assert (counts[1::2] > 0).sum() > 3


def test_bfloat16_logits():
    """Adding up 300 equal ones in bfloat16 would stop at 256 or before."""
    rows = jnp.zeros((3000, 300), jnp.bfloat16)
    tokens = CHOOSE(rows, Sampling(top_p=0.5), jax.random.key(0))
    assert set(np.unique(tokens)) == set(range(150))


def test_with_64_bits_and_eagerly():
    sampling = Sampling(temperature=0.7, top_k=5, top_p=0.9)
    rows = jnp.tile(jnp.asarray(LOGITS)[None], (50, 1))
    eager = choose_tokens(rows, sampling, jax.random.key(0))
    np.testing.assert_array_equal(eager, CHOOSE(rows, sampling, jax.random.key(0)))
    with jax.enable_x64(True):
        for one in (sampling, Sampling(), GREEDY):
            chosen = CHOOSE(rows.astype(jnp.float64), one, jax.random.key(0))
            chex.assert_type(chosen, jnp.int32)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"temperature": 0.0},
            r"temperature must lie in \(0, inf\), got 0: for the most",
        ),
        ({"temperature": -1.0}, r"temperature must lie in \(0, inf\), got -1"),
        ({"temperature": float("nan")}, r"temperature must lie in \(0, inf\), got nan"),
        ({"temperature": float("inf")}, r"temperature must lie in \(0, inf\), got inf"),
        ({"top_k": 0}, "top_k must be >= 1, got 0"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0"),
        ({"top_p": 1.01}, r"top_p must lie in \(0, 1\], got 1.01: 1 keeps all"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty must lie in \(0, inf\)"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        Sampling(**settings)


def test_more_than_the_vocabulary():
    words = "top_k must be at most 12, the size of the vocabulary, got 13"
    with pytest.raises(ValueError, match=words):
        choose_tokens(jnp.zeros((1, 12)), Sampling(top_k=13), jax.random.key(0))


@pytest.mark.parametrize(
    "options", [{"greedy": True}, {}, {"top_k": 4}, {"top_p": 0.99}]
)
def test_suppressed_tokens_are_never_chosen(options):
    logits = jnp.tile(jnp.array([[3.0, 2.0, 1.0, 0.0, -1.0]]), (500, 1))
    sampling = Sampling(suppress_tokens=(0, 2), **options)
    chosen = choose_tokens(logits, sampling, jax.random.key(0))
    found = set(np.asarray(chosen).tolist())
    assert found == ({1} if "greedy" in options else {1, 3, 4})


@pytest.mark.parametrize("tokens", [(5,), (-1,), (0, 1, 2, 3, 4)])
def test_suppressed_tokens_must_be_some_of_the_vocabulary(tokens):
    with pytest.raises(ValueError, match=r"some ids in \[0, 4\], got"):
        Sampling(suppress_tokens=tokens).check(5)
