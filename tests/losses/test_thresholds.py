"""Tuned thresholds: none is better, with scikit-learn as the judge."""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from zlpr_jax.losses import (
    example_f1_threshold,
    macro_f1_threshold,
    macro_f1_thresholds,
    micro_f1_threshold,
    micro_f1_thresholds,
    zlpr_predict,
)

GLOBAL = {
    "micro": micro_f1_threshold,
    "macro": macro_f1_threshold,
    "samples": example_f1_threshold,
}
PER_LABEL = {"micro": micro_f1_thresholds, "macro": macro_f1_thresholds}
EVERY = pytest.mark.parametrize("function", [*GLOBAL.values(), *PER_LABEL.values()])
AVERAGES = pytest.mark.parametrize("average", list(GLOBAL))


def f1(labels, predicted, average):
    """F1 by scikit-learn, which takes a single column for another problem.

    So there is one more, empty, that only the macro average sees.
    """
    empty = np.zeros((len(labels), 1), bool)
    labels, predicted = (np.hstack([x, empty]) for x in (labels, predicted))
    value = f1_score(labels, predicted, average=average, zero_division=0)
    columns = labels.shape[1]
    return value * columns / (columns - 1) if average == "macro" else value


def predict(logits, thresholds):
    """By the library, from an array or a number."""
    if isinstance(thresholds, np.ndarray):
        thresholds = jnp.asarray(thresholds)[None, :]
    return np.asarray(zlpr_predict(jnp.asarray(logits), thresholds))


def cuts(scores):
    """A threshold for every set of predictions that a finite one can make."""
    finite = np.unique(scores[np.isfinite(scores)])
    return [finite[0] - 10, *finite] if len(finite) else [0.0]


@st.composite
def splits(draw, rows=5, columns=4):
    shape = draw(st.tuples(st.integers(1, rows), st.integers(1, columns)))
    size = shape[0] * shape[1]
    score = st.integers(-2, 2).map(float) | st.sampled_from([-np.inf, 0.0, np.inf])
    label = draw(st.sampled_from([st.booleans(), st.just(False), st.just(True)]))
    scores = draw(st.lists(score, min_size=size, max_size=size))
    labels = draw(st.lists(label, min_size=size, max_size=size))
    return np.float32(scores).reshape(shape), np.array(labels).reshape(shape)


@AVERAGES
@settings(deadline=None, max_examples=40, derandomize=True)
@given(split=splits())
def test_no_threshold_is_better(average, split):
    logits, labels = split
    threshold = GLOBAL[average](logits, labels)
    assert np.isfinite(threshold)
    reached = f1(labels, predict(logits, threshold), average)
    best = max(f1(labels, logits > cut, average) for cut in cuts(logits))
    assert reached == pytest.approx(best, abs=1e-12)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(split=splits())
def test_no_macro_thresholds_are_better(split):
    logits, labels = split
    thresholds = macro_f1_thresholds(logits, labels)
    predicted = predict(logits, thresholds)
    for c, threshold in enumerate(thresholds):
        assert np.isfinite(threshold)
        column = slice(c, c + 1)
        best = max(
            f1(labels[:, column], logits[:, column] > cut, "macro")
            for cut in cuts(logits[:, c])
        )
        assert f1(labels[:, column], predicted[:, column], "macro") == best


@settings(deadline=None, max_examples=100, derandomize=True)
@given(split=splits(4, 3))
def test_no_micro_thresholds_are_better(split):
    logits, labels = split
    thresholds = micro_f1_thresholds(logits, labels)
    assert np.isfinite(thresholds).all()
    best = 0.0
    for rows in itertools.product(*(cuts(column) for column in logits.T)):
        predicted = logits > np.array(rows)
        size = predicted.sum() + labels.sum()
        best = max(best, 2 * (predicted & labels).sum() / max(size, 1))
    reached = f1(labels, predict(logits, thresholds), "micro")
    assert reached == pytest.approx(best, abs=1e-12)


@pytest.fixture
def split(rng):
    labels = rng.random((80, 9)) < 0.25
    labels[3], labels[4], labels[:, 5] = False, True, False
    logits = rng.normal(size=labels.shape) + labels + rng.normal(size=9)
    return logits.round(1).astype(np.float32), labels


@AVERAGES
def test_a_larger_split(split, average):
    logits, labels = split
    reached = f1(labels, predict(logits, GLOBAL[average](logits, labels)), average)
    best = max(f1(labels, logits > cut, average) for cut in cuts(logits))
    assert reached == pytest.approx(best, abs=1e-12)


def test_more_thresholds_reach_more(split):
    logits, labels = split
    for average, function in PER_LABEL.items():
        one = predict(logits, GLOBAL[average](logits, labels))
        many = predict(logits, function(logits, labels))
        assert f1(labels, many, average) > f1(labels, one, average)
        assert f1(labels, many, average) > f1(labels, logits > 0, average)


def test_a_million_changes_add_up_without_drift(rng):
    labels = rng.random((2000, 500)) < 0.02
    logits = (rng.normal(size=labels.shape) + 2 * labels).astype(np.float32)
    threshold = macro_f1_threshold(logits, labels)

    def macro(threshold):
        predicted = logits > threshold
        sizes = predicted.sum(axis=0) + labels.sum(axis=0)
        return (2 * (predicted & labels).sum(axis=0) / sizes).mean()

    near = np.sort(logits.ravel()[np.abs(logits.ravel() - threshold) < 1e-4])
    assert len(near) > 5
    for cut in [*near, *np.linspace(-1, 4, 30)]:
        assert macro(cut) <= macro(threshold) + 1e-12


def column(function, logits, labels):
    """The one threshold of a single column."""
    logits, labels = np.float32(logits)[:, None], np.array(labels, bool)[:, None]
    (threshold,) = np.atleast_1d(function(logits, labels)).tolist()
    return threshold


@EVERY
def test_the_middle(function):
    assert column(function, [3, 1, -2], [1, 1, 0]) == -0.5


@EVERY
def test_everything_and_nothing(function):
    assert column(function, [3, 5], [1, 1]) == 2
    assert column(function, [3, 5], [0, 0]) == 6


@EVERY
@pytest.mark.parametrize("big", [1e9, 3e38])
def test_huge_scores(function, big):
    assert np.float32(column(function, [big], [1])) < np.float32(big)
    assert np.float32(-big) <= np.float32(column(function, [-big], [0])) < np.inf


@EVERY
@pytest.mark.parametrize("score", [np.inf, -np.inf])
@pytest.mark.parametrize("label", [0, 1])
def test_nothing_finite(function, score, label):
    assert column(function, [score], [label]) == 0


@EVERY
@pytest.mark.parametrize("mask", [-np.inf, np.finfo(np.float32).min])
def test_masks_are_never_predicted(function, mask):
    assert column(function, [2, mask], [1, 1]) == 1


@EVERY
def test_infinite_neighbours(function):
    # A row without a label has F1 0 with and without a prediction: for the mean over
    # rows both cuts are equal, and 3 is nearer to 0.
    expected = 3 if function is example_f1_threshold else 5
    assert column(function, [np.inf, 4, -np.inf], [1, 0, 0]) == expected


@pytest.mark.parametrize(
    ("centre", "threshold"), [(0, 4), (10, 3), (-10, -6), (1.5, 5.5), (1.4, 5.4)]
)
def test_of_equal_cuts_the_nearest_to_zero(centre, threshold):
    # One hit of one and two of four: F1 is 2/3 at 4 and at -7, less between.
    logits = np.float32([6, 2, -2, -6]) + np.float32(centre)
    for function in (micro_f1_threshold, macro_f1_threshold, *PER_LABEL.values()):
        found = column(function, logits, [1, 0, 0, 1])
        assert found == pytest.approx(threshold, rel=1e-6)


def test_a_label_that_adds_nothing_is_not_predicted():
    logits = np.float32([[4, 1, 9], [3, 2, 8], [-4, 3, 7]])
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0]], bool)
    for function in PER_LABEL.values():
        np.testing.assert_array_equal(function(logits, labels), [-0.5, 4, 10])


@pytest.mark.parametrize("function", [micro_f1_threshold, macro_f1_thresholds])
@pytest.mark.parametrize("low", [0.0, 1.0, -1.0, 3e7, -1e-30, 1e30])
def test_neighbouring_numbers_are_separated(function, low):
    low = np.float32(low)
    for up in (1, 2, 3):
        high = low
        for _ in range(up):
            high = np.nextafter(high, np.float32(np.inf))
        if 0 < abs(high) < np.finfo(np.float32).tiny:
            continue  # XLA counts such a number as 0
        logits = np.array([[high], [low]])
        threshold = function(logits, np.array([[True], [False]]))
        np.testing.assert_array_equal(predict(logits, threshold), [[True], [False]])
        # In float64 too, and as a float64 number.
        wide = np.atleast_1d(threshold).astype(np.float64)[0]
        assert np.float64(low) <= wide < np.float64(high)
        # Scores in float64 that float32 still tells apart are separated in both.
        threshold = function(logits.astype(np.float64), np.array([[True], [False]]))
        np.testing.assert_array_equal(
            logits > np.float32(np.atleast_1d(threshold)[0]), [[True], [False]]
        )


def test_float64_scores_that_float32_cannot_tell_apart():
    logits = np.array([[1 + 1e-12], [1.0]])
    labels = np.array([[True], [False]])
    for threshold in (
        micro_f1_threshold(logits, labels),
        macro_f1_thresholds(logits, labels),
    ):
        np.testing.assert_array_equal(logits > threshold, labels)
    assert macro_f1_thresholds(logits, labels).dtype == np.float64


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes_and_kinds_of_array(split, dtype):
    logits, labels = split
    rounded = logits.astype(getattr(ml_dtypes, dtype, dtype))
    for function in [*GLOBAL.values(), *PER_LABEL.values()]:
        expected = function(rounded.astype(np.float32), labels)
        for scores, truth in (
            (rounded, labels),
            (jnp.asarray(rounded), jnp.asarray(labels)),
            (rounded, labels.astype(np.int8)),
        ):
            np.testing.assert_array_equal(function(scores, truth), expected)
        assert isinstance(expected, float) or expected.dtype == np.float32


def test_the_arguments_stay_as_they_are(split):
    logits, labels = split
    before = logits.copy(), labels.copy()
    for function in [*GLOBAL.values(), *PER_LABEL.values()]:
        function(logits, labels)
    np.testing.assert_array_equal(logits, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_not_under_jit(split):
    logits, labels = (jnp.asarray(x) for x in split)
    with pytest.raises(TypeError, match=r"micro_f1_threshold runs on the host.*jit"):
        jax.jit(micro_f1_threshold)(logits, labels)
