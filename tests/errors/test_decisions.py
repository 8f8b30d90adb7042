"""The messages of divergences, smoothing, thresholds and temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zlpr_jax import losses

S = jnp.zeros((2, 3))
Y = jnp.zeros((2, 3), bool)
N = jnp.zeros((2, 3), jnp.int32)
Z = jnp.zeros((2, 3), jnp.complex64)
A = np.array([[1.0, -1.0, 2.0], [0.5, 3.0, -2.0]])
T = np.array([[True, False, True], [False, True, False]])

PAIRS = [
    (losses.zlpr_divergence, "teacher_logits"),
    (losses.zlpr_symmetric_kl, "other_logits"),
]
TUNED = [
    losses.micro_f1_threshold,
    losses.macro_f1_threshold,
    losses.example_f1_threshold,
    losses.micro_f1_thresholds,
    losses.macro_f1_thresholds,
]
FITTED = [*TUNED, losses.fit_temperature]
SMOOTH, ENTROPY = losses.smooth_multi_hot, losses.zlpr_entropy
FIT = losses.fit_temperature


@pytest.mark.parametrize(("function", "other"), PAIRS)
@pytest.mark.parametrize(
    ("error", "args", "message"),
    [
        (TypeError, (N, S), r"logits must be floating point, got int32.*astype"),
        (TypeError, (S, N), r"OTHER must be floating point, got int32.*OTHER.astype"),
        (TypeError, (S, S, -1, S), r"where must be boolean, got float32"),
        (TypeError, (S, S, 1.0), r"axis must be an int .*got 1\.0: pass axis=-1"),
        (ValueError, (S, S[:1]), r"OTHER must have the shape \(2, 3\) \(that of log"),
        (ValueError, (S, S, -1, Y[0]), r"where must have the shape.*got \(3,\)"),
        (ValueError, (S, S, 2), r"axis must lie in \[-2, 2\).*got 2"),
        (ValueError, (S, S, (0, 0)), r"axis must name each axis once"),
    ],
)
def test_pairs(function, other, error, args, message):
    with pytest.raises(error, match=message.replace("OTHER", other)):
        function(*args)


@pytest.mark.parametrize(
    ("error", "function", "args", "message"),
    [
        (TypeError, ENTROPY, (Y,), r"labels must be floating point, got bool"),
        (TypeError, ENTROPY, (S, -1, N), r"where must be boolean, got int32"),
        (ValueError, ENTROPY, (S, -1, Y[:1]), r"where.*\(2, 3\) \(that of labels\)"),
        (ValueError, ENTROPY, (S, 3), r"axis must lie in \[-2, 2\)"),
        (TypeError, SMOOTH, (S, 0.1), r"labels must be integers, got float32: compare"),
        (TypeError, SMOOTH, (Z, 0.1), r"labels must be integers, got complex64"),
        (TypeError, SMOOTH, (Y, "a lot"), r"positive must be a number in \[0, 0\.5\)"),
        (ValueError, SMOOTH, (Y, 0.5), r"positive must lie in \[0, 0\.5\), got 0\.5"),
        (ValueError, SMOOTH, (Y, -0.1), r"positive must lie in .*leaves it hard"),
        (ValueError, SMOOTH, (Y, 0.1, 0.9), r"negative must lie in .*got 0\.9"),
        (ValueError, SMOOTH, (Y, float("nan")), r"positive must lie in"),
    ],
)
def test_smoothing(error, function, args, message):
    with pytest.raises(error, match=message):
        function(*args)


@pytest.mark.parametrize("function", FITTED)
@pytest.mark.parametrize(
    ("error", "args", "message"),
    [
        (TypeError, (T, T), r"logits must be floating point, got bool.*astype"),
        (TypeError, (A.astype(int), T), r"logits must be floating point, got int64"),
        (ValueError, (A * np.nan, T), r"logits must not be NaN, got 6 of 6: look for"),
        (ValueError, (A, T[:1]), r"labels must have the shape \(2, 3\).*got \(1, 3\)"),
        (ValueError, (A, 2 * T), r"labels must .*got values from 0 to 2"),
        (ValueError, (A, T - 1), r"labels must .*got values from -1 to 0"),
        (TypeError, (A, T * 1j), r"labels must be .*got complex128"),
    ],
)
def test_fitted(function, error, args, message):
    with pytest.raises(error, match=message):
        function(*args)


@pytest.mark.parametrize("function", TUNED)
@pytest.mark.parametrize(
    ("error", "args", "message"),
    [
        (TypeError, (A, T * 1.0), r"labels must be boolean or .*float64: compare"),
        (ValueError, (A[0], T[0]), r"logits must have the shape \[N, C\].*\(3,\): st"),
        (ValueError, (A[:0], T[:0]), r"N and C at least 1, got \(0, 3\)"),
        (ValueError, (A[:, :0], T[:, :0]), r"N and C at least 1, got \(2, 0\)"),
    ],
)
def test_tuned(function, error, args, message):
    with pytest.raises(error, match=message):
        function(*args)


@pytest.mark.parametrize("function", FITTED)
def test_traced(function):
    name = function.__name__
    with pytest.raises(
        TypeError, match=rf"{name} .*values of logits, got a traced.*jit"
    ):
        jax.jit(function)(S, Y)
    with pytest.raises(TypeError, match=rf"{name} .*values of labels, got a traced"):
        jax.jit(lambda labels: function(A, labels))(Y)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (A, A > 0, r"every score has the sign of its label.*more held-out rows"),
        (np.ones(2), np.ones(2), r"every score has the sign of its label"),
        (A, A < 0, r"point away from the labels.*= -4\.75, .*above 0.*same order"),
        (0 * A, T, r"say nothing of them \(sum .* = 0,"),
        (np.array([1.0, 1.0]), np.array([0.5, 0.5]), r"no temperature fits: the sco"),
        (np.zeros(0), np.zeros(0), r"no temperature fits"),
        (
            np.array([-np.inf, np.inf, 1.0]),
            np.array([1, 0, 1]),
            r"2 infinite scores contradict their labels.*leave these entries out",
        ),
        (np.array([np.inf, 1.0]), np.array([0.9, 1]), r"1 infinite scores contradict"),
        (np.ones(2), np.array([0.5, np.nan]), r"labels must lie in \[0, 1\]"),
    ],
)
def test_no_temperature(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        FIT(logits, labels)
