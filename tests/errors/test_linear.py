"""What the losses of a linear layer say to wrong arguments."""

import jax.numpy as jnp
import pytest

from zlpr_jax.losses import predict_topk, zlpr_linear_loss

HIDDEN = jnp.zeros((2, 3))
KERNEL = jnp.zeros((3, 5))
LABELS = jnp.zeros((2, 1), jnp.int32)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((HIDDEN.astype(int), KERNEL, LABELS), {}, TypeError, "hidden must be float"),
        ((HIDDEN, KERNEL.astype(int), LABELS), {}, TypeError, "kernel must be float"),
        ((HIDDEN, KERNEL.T, LABELS), {}, ValueError, r"\[D, C\].*kernel\.T"),
        ((HIDDEN[0, 0], KERNEL, LABELS), {}, ValueError, r"last axis of hidden"),
        (
            (HIDDEN, KERNEL, LABELS.astype(float)),
            {},
            TypeError,
            "labels must be integers",
        ),
        ((HIDDEN, KERNEL, LABELS[:1]), {}, ValueError, "labels without its last axis"),
        ((HIDDEN[0], KERNEL, LABELS[0, 0]), {}, ValueError, "must have a last axis"),
        (
            (HIDDEN, KERNEL, LABELS),
            {"bias": jnp.zeros(4)},
            ValueError,
            r"bias must have the shape \(5,\)",
        ),
        (
            (HIDDEN, KERNEL, LABELS),
            {"bias": jnp.zeros(5, int)},
            TypeError,
            "bias must be float",
        ),
        (
            (HIDDEN, KERNEL, LABELS),
            {"where": jnp.ones((2, 5), bool)},
            ValueError,
            r"where must have the shape \(5,\)",
        ),
        (
            (HIDDEN, KERNEL, LABELS),
            {"where": jnp.ones(5)},
            TypeError,
            "where must be boolean",
        ),
        (
            (HIDDEN, KERNEL, LABELS),
            {"threshold": jnp.zeros(5)},
            ValueError,
            r"threshold must have the shape \(2,\)",
        ),
        (
            (HIDDEN, KERNEL, LABELS),
            {"block_size": 0},
            ValueError,
            "block_size must be at least 1",
        ),
        (
            (HIDDEN, KERNEL, LABELS),
            {"block_size": 2.0},
            TypeError,
            "block_size must be an int or None",
        ),
    ],
)
def test_zlpr_linear_loss(arguments, options, error, message):
    with pytest.raises(error, match=message):
        zlpr_linear_loss(*arguments, **options)


@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (0, ValueError, r"k must lie in \[1, 5\].*got 0"),
        (6, ValueError, r"k must lie in \[1, 5\].*got 6"),
        (2.0, TypeError, "k must be an int, got 2.0"),
        (True, TypeError, "k must be an int, got True"),
    ],
)
def test_predict_topk(k, error, message):
    with pytest.raises(error, match=message):
        predict_topk(HIDDEN, KERNEL, k)


def test_predict_topk_checks_the_layer():
    with pytest.raises(ValueError, match=r"kernel\.T"):
        predict_topk(HIDDEN, KERNEL.T, 1)
