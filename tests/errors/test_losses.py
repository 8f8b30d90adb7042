"""The messages of the losses: what was expected, what came, what to do."""

import jax
import jax.numpy as jnp
import pytest

from zlpr_jax import losses

S = jnp.zeros((2, 3))
Y = jnp.zeros((2, 3), bool)
I = jnp.zeros((2, 1), jnp.int32)
Z = jnp.zeros((2, 3), jnp.complex64)
N = jnp.zeros((2, 3), jnp.int32)

DENSE, SPARSE = losses.zlpr_loss, losses.zlpr_loss_with_integer_labels
COUNT, PRECISION = losses.label_counts, losses.precision_at_k

TYPE_ERRORS = [
    (DENSE, (N, Y), {}, r"logits must be floating point, got int32.*astype"),
    (DENSE, (Z, Y), {}, r"logits must be floating point, got complex64"),
    (DENSE, (Y, Y), {}, r"logits must be floating point, got bool"),
    (DENSE, (S, Z), {}, r"labels must be floating point, got complex64"),
    (DENSE, (S, Y, -1, S), {}, r"where must be boolean, got float32.*compare"),
    (DENSE, (S, Y, 1.0), {}, r"axis must be an int .*got 1\.0: pass axis=-1"),
    (DENSE, (S, Y), {"threshold": I[0, 0]}, r"threshold must be floating.*int32"),
    (SPARSE, (S, S[:, :1]), {}, r"labels must be integers, got float32.*zlpr_loss"),
    (SPARSE, (S, Y[:, :1]), {}, r"labels must be integers, got bool.*zlpr_loss"),
    (SPARSE, (N, I), {}, r"logits must be floating point, got int32"),
    (SPARSE, (S, I, (0, 1)), {}, r"axis must be a single int, got \(0, 1\).*flatten"),
    (SPARSE, (S, I, -1, N), {}, r"where must be boolean, got int32"),
    (losses.zlpr_predict, (N,), {}, r"logits must be floating point, got int32"),
    (losses.zlpr_predict, (S, I), {}, r"threshold must be floating point, got int32"),
    (losses.zlpr_probabilities, (N,), {}, r"logits must be floating point, got int32"),
    (losses.zlpr_probabilities, (S, I), {}, r"scale must be floating point, got int32"),
    (COUNT, (S, Y), {}, r"predictions must be boolean, got float32.*compare"),
    (COUNT, (Y, N), {}, r"labels must be boolean, got int32.*labels == 1"),
    (COUNT, (Y, Y, -1, N), {}, r"where must be boolean, got int32"),
    (PRECISION, (N, Y), {"k": 1}, r"logits must be floating point, got int32"),
    (losses.one_error, (S, S), {}, r"labels must be boolean, got float32"),
]

VALUE_ERRORS = [
    (
        DENSE,
        (S, Y[:1]),
        {},
        r"labels must have the shape \(2, 3\).*got \(1, 3\).*broad",
    ),
    (DENSE, (S, Y[0]), {}, r"labels must have the shape \(2, 3\).*got \(3,\)"),
    (DENSE, (S, Y, -1, Y[:, :1]), {}, r"where must have the shape.*got \(2, 1\)"),
    (DENSE, (S, Y, 2), {}, r"axis must lie in \[-2, 2\).*\(2, 3\), got 2: name"),
    (DENSE, (S, Y, -3), {}, r"axis must lie in \[-2, 2\).*got -3"),
    (DENSE, (S, Y, (1, -1)), {}, r"axis must name each axis once, got \(1, -1\).*rem"),
    (DENSE, (S, Y, ()), {}, r"axis must name at least one axis, got \(\): pass"),
    (DENSE, (S[0, 0], Y[0, 0]), {}, r"axis must lie in \[0, 0\)"),
    (
        DENSE,
        (S, Y),
        {"threshold": jnp.zeros(3)},
        r"threshold must have the shape \(2,\) .*scalar.*got \(3,\)",
    ),
    (DENSE, (S, Y), {"threshold": jnp.zeros((2, 1))}, r"threshold.*got \(2, 1\)"),
    (
        DENSE,
        (S, Y, (0, 1)),
        {"threshold": jnp.zeros(2)},
        r"threshold.*\(\).*got \(2,\)",
    ),
    (SPARSE, (S, I[:1]), {}, r"labels without its last axis.*\(2,\).*got \(1,\)"),
    (SPARSE, (S, I[:, 0]), {}, r"labels without its last axis.*\(2,\).*got \(\)"),
    (SPARSE, (S, I, 0), {}, r"labels without its last axis.*\(3,\).*got \(2,\)"),
    (SPARSE, (S[0], I[0, 0]), {}, r"labels must have a last axis.*\(\): use labels\["),
    (SPARSE, (S, I, 2), {}, r"axis must lie in \[-2, 2\)"),
    (SPARSE, (S, I, -1, Y[0]), {}, r"where must have the shape \(2, 3\).*got \(3,\)"),
    (SPARSE, (S, I), {"threshold": jnp.zeros(3)}, r"threshold.*got \(3,\)"),
    (losses.zlpr_predict, (S, jnp.zeros(3)), {}, r"threshold.*got \(3,\): insert"),
    (losses.zlpr_predict, (S, jnp.zeros((3, 1))), {}, r"threshold.*got \(3, 1\)"),
    (losses.zlpr_probabilities, (S, jnp.zeros(3)), {}, r"scale.*\(\).*got \(3,\)"),
    (COUNT, (Y, Y[:1]), {}, r"labels must have the shape \(2, 3\).*predictions"),
    (COUNT, (Y, Y, -1, Y[0]), {}, r"where.*\(2, 3\).*or \(2,\).*got \(3,\).*broadcast"),
    (COUNT, (Y, Y, 5), {}, r"axis must lie in \[-2, 2\)"),
    (PRECISION, (S, Y), {"k": 0}, r"k must lie in \[1, 3\].*got 0"),
    (PRECISION, (S, Y), {"k": 4}, r"k must lie in \[1, 3\].*got 4"),
    (PRECISION, (S, Y[0]), {"k": 1}, r"labels must have the shape \(2, 3\).*logits"),
    (
        losses.macro_f1,
        (losses.LabelCounts(*[jnp.zeros(0, jnp.int32)] * 3),),
        {},
        r"macro_f1 needs the counts of at least one label, got.*\(0,\)",
    ),
]


@pytest.mark.parametrize(
    ("error", "function", "args", "options", "message"),
    [(TypeError, *one) for one in TYPE_ERRORS]
    + [(ValueError, *one) for one in VALUE_ERRORS],
)
def test_message(error, function, args, options, message):
    with pytest.raises(error, match=message):
        function(*args, **options)


@pytest.mark.parametrize(
    ("function", "labels"), [(DENSE, Y[:1]), (SPARSE, I[:1])], ids=["dense", "sparse"]
)
def test_raised_at_trace_time(function, labels):
    with pytest.raises(ValueError, match="labels"):
        jax.eval_shape(function, S, labels)


def test_tunables_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        DENSE(S, Y, -1, None, 0.5)
    with pytest.raises(TypeError, match="positional"):
        SPARSE(S, I, -1, None, 0.5)
    with pytest.raises(TypeError, match="positional"):
        PRECISION(S, Y, -1, None, 2)
