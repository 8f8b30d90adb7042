"""Generation against a loop over the whole forward pass."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.decoders import configuration, noisy_decoder
from tests.nn import oracles
from zlpr_jax.models.decoder import GREEDY, Decoder
from zlpr_jax.models.generation import (
    Sampling,
    choose_tokens,
    make_generate,
    prompt_buckets,
)
from zlpr_jax.nn import functionalize

VOCABULARY, MAX, NEW = 30, 20, 9
KINDS = {
    "dot": (("dot",), "rotary"),
    "mixture": (("random", "dot"), "relative"),
    "dense": (("dense",), "learned"),
    "factorized-random": (("factorized-random",), "none"),
}
PROMPTS = [[3, 1, 4, 1, 5, 9], [2, 6], [5], [3, 5, 8, 9]]
KEY = jax.random.key(7)
CHOOSE = oracles.jit(choose_tokens, static_argnums=1)


def varied(config):
    """A decoder for whose texts no token is the best everywhere."""
    made = noisy_decoder(config)
    made.norm.scale[...], made.norm.bias[...] = jnp.ones(16), jnp.zeros(16)
    made.embedding[...] *= 5
    return made


@functools.cache
def model(kind):
    attention, positions = KINDS[kind]
    config = configuration(attention, positions, vocabulary=VOCABULARY, max_length=MAX)
    return varied(config)


@functools.cache
def logits_of(kind):
    return oracles.jit(model(kind).__call__)


@functools.cache
def generating(kind, **options):
    made = model(kind)
    return oracles.jit(
        lambda tokens, where, key: made.generate(tokens, where, key=key, **options)
    )


def padded(prompts, width=None, side="right", filler=0):
    width = width or max(map(len, prompts))
    tokens = np.full((len(prompts), width), filler, np.int32)
    where = np.zeros((len(prompts), width), bool)
    for row, prompt in enumerate(prompts):
        free = width - len(prompt)
        if side == "between":
            rng = np.random.default_rng(row)
            places = np.sort(rng.permutation(width)[: len(prompt)])
        else:
            places = np.arange(len(prompt)) + (free if side == "left" else 0)
        tokens[row, places], where[row, places] = prompt, True
    return jnp.asarray(tokens), jnp.asarray(where)


def generate(kind, prompts, key=KEY, side="right", filler=0, width=None, **options):
    options = {"new": NEW, **options}
    found = generating(kind, **options)(*padded(prompts, width, side, filler), key)
    chex.assert_shape(found.tokens, (len(prompts), options["new"]))
    chex.assert_type(list(found), jnp.int32)
    tokens, lengths = np.asarray(found.tokens), np.asarray(found.lengths)
    behind = np.arange(options["new"]) >= lengths[:, None]
    assert (tokens[behind] == 0).all()
    return [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]


@functools.cache
def greedy_texts(kind):
    return generate(kind, PROMPTS)


def naive(kind, prompts, new=NEW, sampling=GREEDY, stop=(), key=KEY):
    """Every token from a forward pass over all before it, all rows at once."""
    texts, done = [list(prompt) for prompt in prompts], [False] * len(prompts)
    for step in range(new):
        done = [end or len(text) == MAX for end, text in zip(done, texts, strict=True)]
        whole = logits_of(kind)(padded(texts, MAX)[0])
        last = [len(text) - 1 for text in texts]
        logits = np.asarray(whole)[np.arange(len(texts)), last]
        seen = np.zeros(logits.shape, bool)
        for row, text in enumerate(texts):
            seen[row, text] = True
        at_step = jax.random.fold_in(key, step)
        chosen = CHOOSE(jnp.asarray(logits), sampling, at_step, jnp.asarray(seen))
        for row, token in enumerate(chosen.tolist()):
            if not done[row]:
                texts[row].append(token)
                done[row] = token in stop
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


# -- The loop


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_the_naive_loop(kind):
    texts = greedy_texts(kind)
    assert texts == naive(kind, PROMPTS)
    assert all(len(text) == NEW for text in texts)
    assert len({token for text in texts for token in text}) > 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right", "between"])
def test_padding_changes_nothing(kind, side):
    """Wherever it is and whatever stands there, and however much there is of it."""
    assert generate(kind, PROMPTS, side=side, filler=29, width=9) == greedy_texts(kind)


@pytest.mark.parametrize("kind", ["dot", "dense"])
def test_a_batch_is_its_rows(kind):
    for prompt, text in zip(PROMPTS, greedy_texts(kind), strict=True):
        assert generate(kind, [prompt], width=9) == [text]


def test_rows_stop_by_themselves():
    whole = greedy_texts("dense")
    stop = (whole[0][4], whole[1][1])
    texts = generate("dense", PROMPTS, stop=stop)
    assert texts == naive("dense", PROMPTS, stop=stop)
    for text, full in zip(texts, whole, strict=True):
        assert text == full[: len(text)]
        assert not set(text[:-1]) & set(stop)
        assert len(text) == NEW or text[-1] in stop
    assert {text[-1] for text in texts} >= set(stop)
    assert len({len(text) for text in texts}) > 2
    # at once, each of them
    first = tuple({text[0] for text in whole})
    texts = generate("dense", PROMPTS, stop=first)
    assert texts == [text[:1] for text in whole]


def test_texts_may_stop_with_token_0():
    """Which also stands behind the end: the length tells."""
    hot = Sampling(temperature=20.0)
    key = jax.random.key(8)
    texts = generate("dot", PROMPTS, stop=(0,), sampling=hot, key=key)
    assert texts == naive("dot", PROMPTS, stop=(0,), sampling=hot, key=key)
    assert any(text[-1] == 0 and len(text) < NEW for text in texts)


def test_texts_end_at_max_length():
    prompts = [[1] * 13, [2] * MAX, [4] * 16, [5]]
    texts = generate("mixture", prompts)
    assert [len(text) for text in texts] == [7, 0, 4, NEW]
    assert texts == naive("mixture", prompts)


@pytest.mark.parametrize("new", [1, 2])
def test_few_tokens(new):
    texts = generate("dense", PROMPTS, new=new)
    assert texts == [text[:new] for text in greedy_texts("dense")]


# -- Sampling


def test_repetition_penalty_of_a_text():
    """Of the prompt and what was added, not of padding."""
    sampling = Sampling(greedy=True, repetition_penalty=3.0)
    expected = naive("dot", PROMPTS, sampling=sampling)
    assert expected != greedy_texts("dot")
    favourite = greedy_texts("dot")[1][0]
    for side in ("left", "right"):
        texts = generate(
            "dot", PROMPTS, sampling=sampling, side=side, filler=favourite, width=9
        )
        assert texts == expected


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 3.0, "top_k": 12, "top_p": 0.95}], ids=str
)
def test_samples_are_those_of_the_naive_loop(settings):
    sampling = Sampling(**settings)
    texts = generate("mixture", PROMPTS, sampling=sampling)
    assert texts == naive("mixture", PROMPTS, sampling=sampling)
    assert texts == generate("mixture", PROMPTS, sampling=sampling)
    other = generate("mixture", PROMPTS, sampling=sampling, key=jax.random.key(8))
    assert texts != other
    twins = generate("mixture", [[7, 7]] * 4, sampling=sampling)
    assert len({tuple(text) for text in twins}) > 1


def test_sampling_from_one_token_is_greedy():
    texts = generate("dot", PROMPTS, sampling=Sampling(temperature=2.0, top_k=1))
    assert texts == greedy_texts("dot")


def test_with_64_bits():
    tokens, where = padded(PROMPTS)
    made = model("mixture")
    with jax.enable_x64(True):
        run = oracles.jit(
            lambda tokens, where, key: made.generate(
                tokens,
                where,
                key=key,
                new=3,
                stop=(1,),
                sampling=Sampling(top_k=3, repetition_penalty=1.1),
            )
        )
        chex.assert_type(list(run(tokens, where, KEY)), jnp.int32)


def test_bad_arguments():
    tokens, where = padded(PROMPTS)
    generate = functools.partial(model("dot").generate, key=KEY)
    with pytest.raises(ValueError, match="new must be >= 1, got 0"):
        generate(tokens, where, new=0)
    with pytest.raises(ValueError, match="top_k must be at most 30, the size of"):
        generate(tokens, where, new=2, sampling=Sampling(top_k=31))
    for stop in ((30,), (2, -1)):
        with pytest.raises(ValueError, match=r"stop must name tokens in \[0, 29\]"):
            generate(tokens, where, new=2, stop=stop)
    long = jnp.ones((1, MAX + 1), jnp.int32)
    with pytest.raises(ValueError, match="21 tokens, but the model was made for max_"):
        generate(long, long > 0, new=2)
    with pytest.raises(ValueError, match=r"lengths must lie in \[1, 6\], got \[6 2 0"):
        generate(tokens, where.at[2].set(False), new=2)


# -- Prompts as lists


CONFIG = configuration(
    ("random",), "learned", vocabulary=VOCABULARY, max_length=40, layers=1
)


@pytest.fixture(scope="module")
def trained():
    return functionalize(varied(CONFIG))[1:]


@pytest.fixture
def traces(monkeypatch):
    """The shapes that `Decoder.generate` was compiled for."""
    found, original = [], Decoder.generate

    def traced(self, tokens, *args, **kwargs):
        found.append(tokens.shape)
        return original(self, tokens, *args, **kwargs)

    monkeypatch.setattr(Decoder, "generate", traced)
    return found


def test_buckets():
    assert prompt_buckets(10) == (10,)
    assert prompt_buckets(16) == (16,)
    assert prompt_buckets(17) == (16, 17)
    assert prompt_buckets(1024) == (16, 32, 64, 128, 256, 512, 1024)


def test_one_compilation_for_each_bucket(trained, traces):
    generate = make_generate(CONFIG, new=3)
    rng = np.random.default_rng(0)
    lengths = [*range(1, 36, 2), 36, 37]
    assert len(set(lengths)) == 20
    prompts = [rng.integers(0, VOCABULARY, length).tolist() for length in lengths]
    texts = [generate(*trained, [prompt])[0] for prompt in prompts]
    assert sorted(traces) == [(1, 16), (1, 32), (1, 40)]
    assert len(traces) <= len(prompt_buckets(CONFIG.max_length))
    # and other parameters need no other
    generate(jax.tree.map(lambda x: x * 2, trained[0]), trained[1], [[1, 2]])
    assert len(traces) == 3
    assert all(len(text) == 3 for text in texts)
    assert len({tuple(text) for text in texts}) > 5


def test_texts_end_with_the_token_that_stops(trained):
    prompts = [[1, 2, 3], [7]]
    whole = make_generate(CONFIG, new=5)(*trained, prompts)
    assert [len(text) for text in whole] == [5, 5]
    stop = whole[0][2]
    texts = make_generate(CONFIG, new=5, stop=[stop])(*trained, prompts)
    for text, full in zip(texts, whole, strict=True):
        end = full.index(stop) + 1 if stop in full else 5
        assert text == full[:end]
    assert texts != whole


def test_samples_need_a_key(trained):
    generate = make_generate(CONFIG, new=5, sampling=Sampling(temperature=2.0))
    with pytest.raises(ValueError, match=r"sampling needs a key: give key=jax\.random"):
        generate(*trained, [[1]])
    one, same, other = (
        generate(*trained, [[1], [1]], key=jax.random.key(seed)) for seed in (0, 0, 1)
    )
    assert one == same != other
    assert one[0] != one[1]


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([], "there is no prompt to go on with: give at least one"),
        ([[1], []], r"between 1 and 37 tokens, .* room for 3 of 40, got 0"),
        ([[1] * 38], r"between 1 and 37 tokens, .* room for 3 of 40, got 38: cut it"),
        ([[1, 30]], r"ids must lie in \[0, 29\], got 1 to 30"),
        ([[5], [-1, 2]], r"ids must lie in \[0, 29\], got -1 to 2"),
    ],
)
def test_bad_prompts(trained, traces, prompts, words):
    generate = make_generate(CONFIG, new=3)
    with pytest.raises(ValueError, match=words):
        generate(*trained, prompts)
    assert not traces


def test_bad_settings():
    for new in (0, 40):
        with pytest.raises(ValueError, match=r"new must lie in \[1, 39\], .* got"):
            make_generate(CONFIG, new=new)
    with pytest.raises(ValueError, match="top_k must be at most 30"):
        make_generate(CONFIG, new=1, sampling=Sampling(top_k=31))
