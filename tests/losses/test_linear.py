"""The loss of a linear layer against its equation, block by block and in all modes."""

import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from zlpr_jax.losses import zlpr_linear_loss, zlpr_loss_with_integer_labels

ROWS, WIDTH, CLASSES = 12, 25, 103


def draw(rng, classes=CLASSES, scale=1.0, dtype=np.float32):
    hidden = rng.normal(size=(ROWS, WIDTH)).astype(dtype)
    kernel = (scale * rng.normal(size=(WIDTH, classes))).astype(dtype)
    labels = rng.integers(-1, classes, (ROWS, 5)).astype(np.int32)
    labels[0] = -1  # no positive class
    labels[1] = labels[1, 0]  # one, five times
    bias = rng.normal(size=classes).astype(dtype)
    threshold = rng.normal(size=ROWS).astype(dtype)
    weights = rng.uniform(0.5, 2, ROWS).astype(dtype)  # cotangents that differ
    return {
        "hidden": hidden,
        "kernel": kernel,
        "labels": labels,
        "bias": bias,
        "threshold": threshold,
        "weights": weights,
    }


def reference(hidden, kernel, labels, bias, threshold, weights, where=None):
    """Losses in float64, and the gradients of their weighted sum, row by row."""
    hidden, kernel, bias = (x.astype(np.float64) for x in (hidden, kernel, bias))
    keep = np.ones(kernel.shape[1], bool) if where is None else where
    kernel, bias = np.where(keep, kernel, 0), np.where(keep, bias, 0)
    scores = hidden @ kernel + bias - threshold[:, None].astype(np.float64)
    losses, gradient = [], np.zeros_like(scores)
    for row, named in enumerate(labels):
        positive = np.zeros(kernel.shape[1], bool)
        positive[named[named >= 0]] = True
        for members, sign in ((positive & keep, -1), (~positive & keep, 1)):
            exponents = sign * scores[row, members]
            total = logsumexp([0.0, *exponents])
            losses.append(total)
            gradient[row, members] = sign * np.exp(exponents - total)
    gradient *= weights[:, None]
    return np.array(losses).reshape(-1, 2).sum(1), {
        "hidden": gradient @ kernel.T,
        "kernel": hidden.T @ gradient,
        "bias": gradient.sum(0),
        "threshold": -gradient.sum(1),
    }


@partial(jax.jit, static_argnames=("block_size", "loss"))
def losses_and_gradients(case, block_size, loss=zlpr_linear_loss, where=None):
    def total(floats):
        losses = loss(
            floats["hidden"],
            floats["kernel"],
            case["labels"],
            bias=floats["bias"],
            threshold=floats["threshold"],
            where=where,
            block_size=block_size,
        )
        return jnp.sum(losses * case["weights"]), losses

    floats = {k: case[k] for k in ("hidden", "kernel", "bias", "threshold")}
    (_, losses), gradients = jax.value_and_grad(total, has_aux=True)(floats)
    return losses, gradients


def worst(actual, expected):
    """Largest difference over the largest magnitude, of each array."""
    return max(
        np.abs(np.asarray(actual[k], np.float64) - expected[k]).max()
        / np.abs(expected[k]).max()
        for k in expected
    )


# None, a divisor, no divisor, one class, one short of all, all, more than there are.
@pytest.mark.parametrize("block_size", [None, 1, 8, 50, 102, 103, 1000])
def test_losses_and_gradients_match_the_equation(rng, block_size):
    case = draw(rng)
    losses, gradients = losses_and_gradients(case, block_size)
    expected, expected_gradients = reference(**case)
    np.testing.assert_allclose(losses, expected, rtol=2e-6)
    assert worst(gradients, expected_gradients) < 2e-6


@pytest.mark.parametrize("block_size", [None, 16])
def test_float64(rng, block_size):
    with jax.enable_x64(True):
        case = draw(rng, dtype=np.float64)
        losses, gradients = losses_and_gradients(case, block_size)
        expected, expected_gradients = reference(**case)
        assert losses.dtype == np.float64
        np.testing.assert_allclose(losses, expected, rtol=1e-14)
        assert worst(gradients, expected_gradients) < 1e-13


def test_small_weights_show_any_padding(rng):
    # A padded column has the score 0, hardly less than any other here.
    case = draw(rng, classes=9, scale=1e-3)
    case["bias"] *= 0
    losses, _ = losses_and_gradients(case, 8)
    np.testing.assert_allclose(losses, reference(**case)[0], rtol=1e-6)


@pytest.mark.parametrize("block_size", [None, 16])
def test_masked_classes_may_hold_anything(rng, block_size):
    case = draw(rng)
    where = rng.random(CLASSES) < 0.7
    expected, expected_gradients = reference(**case, where=where)
    case["kernel"][:, ~where] = np.nan
    case["bias"][~where] = np.inf
    losses, gradients = losses_and_gradients(case, block_size, where=where)
    np.testing.assert_allclose(losses, expected, rtol=2e-6)
    assert worst(gradients, expected_gradients) < 2e-6
    assert not np.any(np.asarray(gradients["kernel"])[:, ~where])


@pytest.mark.parametrize("block_size", [None, 16])
def test_nothing_counts(rng, block_size):
    case = draw(rng)
    losses, gradients = losses_and_gradients(
        case, block_size, where=np.zeros(CLASSES, bool)
    )
    np.testing.assert_array_equal(losses, np.zeros(ROWS))
    chex.assert_trees_all_equal(gradients, jax.tree.map(np.zeros_like, gradients))


@pytest.mark.parametrize("block_size", [None, 16])
def test_an_index_past_the_end_is_loud_in_its_row(rng, block_size):
    case = draw(rng)
    good, _ = losses_and_gradients(case, block_size)
    case["labels"][3, 2] = CLASSES
    case["labels"][4, 0] = np.iinfo(np.int32).min  # padding, not a wrapped index
    case["labels"][5] = case["labels"][5][::-1]
    losses, _ = losses_and_gradients(case, block_size)
    assert np.isnan(losses[3])
    others = np.delete(np.arange(ROWS), [3, 4])
    np.testing.assert_array_equal(losses[others], good[others])
    assert np.isfinite(losses[4])


def test_rows_do_not_mix(rng):
    case = draw(rng)
    before, _ = losses_and_gradients(case, 16)
    case["hidden"][2] = 1e4
    after, _ = losses_and_gradients(case, 16)
    others = np.delete(np.arange(ROWS), 2)
    np.testing.assert_array_equal(before[others], after[others])


@pytest.mark.parametrize("block_size", [None, 3])
def test_large_scores(block_size):
    hidden = jnp.array([[1e4], [-1e4]])
    kernel = jnp.array([[1.0, -1.0, 0.5, 0.0]])
    labels = jnp.array([[1], [1]])

    def loss(hidden):
        return zlpr_linear_loss(hidden, kernel, labels, block_size=block_size)

    np.testing.assert_allclose(loss(hidden), [2e4, math.log(2)], rtol=1e-6)
    gradient = jax.grad(lambda hidden: loss(hidden).sum())(hidden)
    np.testing.assert_allclose(gradient, [[2.0], [0.0]], atol=1e-6)


@pytest.mark.parametrize("block_size", [None, 4])
def test_infinite_scores(block_size):
    kernel = jnp.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    bias = jnp.array([0.0, -jnp.inf, 0.0, jnp.inf, 0.0])
    labels = jnp.array([[3], [1], [0]])
    loss = zlpr_linear_loss(
        jnp.zeros((3, 1)), kernel, labels, bias=bias, block_size=block_size
    )
    dense = zlpr_loss_with_integer_labels(jnp.zeros((3, 1)) + bias[None], labels)
    np.testing.assert_array_equal(loss[1:], [np.inf, np.inf])
    np.testing.assert_allclose(loss, dense, rtol=1e-6)


@pytest.mark.parametrize("block_size", [None, 16])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(rng, dtype, block_size):
    case = {
        k: x.astype(dtype) if x.dtype == np.float32 and k != "weights" else x
        for k, x in draw(rng).items()
    }
    case = jax.tree.map(jnp.asarray, case)
    losses, gradients = losses_and_gradients(case, block_size)
    assert losses.dtype == jnp.float32
    assert all(gradients[k].dtype == dtype for k in gradients)
    wide = {
        k: np.asarray(x.astype(jnp.float32)) if x.dtype == dtype else np.asarray(x)
        for k, x in case.items()
    }
    expected, expected_gradients = reference(**wide)
    # The products of half-precision numbers are exact in float32.
    np.testing.assert_allclose(losses, expected, rtol=2e-6)
    eps = float(jnp.finfo(dtype).eps)
    assert worst(gradients, expected_gradients) < 2 * eps


def test_a_wide_kernel_under_a_narrow_input(rng):
    case = jax.tree.map(jnp.asarray, draw(rng))
    narrow = {**case, "hidden": case["hidden"].astype(jnp.bfloat16)}
    losses, gradients = losses_and_gradients(narrow, 16)
    cast = {**narrow, "kernel": case["kernel"].astype(jnp.bfloat16)}
    expected, _ = losses_and_gradients(cast, 16)
    np.testing.assert_array_equal(losses, expected)
    assert gradients["kernel"].dtype == jnp.float32
    assert gradients["hidden"].dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize("block_size", [None, 4])
def test_any_number_of_row_axes(rng, shape, block_size):
    hidden = jnp.array(rng.normal(size=(*shape, 4)), jnp.float32)
    kernel = jnp.array(rng.normal(size=(4, 10)), jnp.float32)
    labels = jnp.array(rng.integers(0, 10, (*shape, 2)))
    loss = zlpr_linear_loss(hidden, kernel, labels, block_size=block_size)
    assert loss.shape == shape
    dense = zlpr_loss_with_integer_labels(hidden @ kernel, labels)
    np.testing.assert_allclose(loss, dense, rtol=2e-6)


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize(("classes", "width"), [(10, 0), (0, 2)])
def test_no_labels_and_no_classes(classes, width, block_size):
    labels = jnp.zeros((3, width), jnp.int32) - 1
    loss = zlpr_linear_loss(
        jnp.ones((3, 4)), jnp.zeros((4, classes)), labels, block_size=block_size
    )
    np.testing.assert_allclose(loss, np.full(3, math.log(1 + classes)), rtol=1e-6)


def test_vmap_is_a_loop_and_jit_is_eager(rng):
    case = jax.tree.map(jnp.asarray, draw(rng))

    def loss(hidden, labels, threshold):
        return jax.value_and_grad(
            lambda h: zlpr_linear_loss(
                h, case["kernel"], labels, threshold=threshold, block_size=16
            )
        )(hidden)

    arguments = [case[k] for k in ("hidden", "labels", "threshold")]
    batched = jax.jit(jax.vmap(loss))(*arguments)
    eager = [loss(*(x[row] for x in arguments)) for row in range(3)]
    for row, alone in enumerate(eager):
        chex.assert_trees_all_close(
            jax.tree.map(lambda x: x[row], batched), alone, rtol=1e-5, atol=1e-6
        )


def test_remat_scan_and_debug_nans(rng):
    case = jax.tree.map(jnp.asarray, draw(rng))

    def loss(kernel, row):
        return zlpr_linear_loss(row[0][None], kernel, row[1][None], block_size=16)[0]

    def total(kernel, wrap):
        def body(carry, row):
            return carry + wrap(loss)(kernel, row), None

        start = jnp.zeros((), jnp.float32)
        return jax.lax.scan(body, start, (case["hidden"], case["labels"]))[0]

    with jax.debug_nans(True):
        plain = jax.value_and_grad(total)(case["kernel"], lambda f: f)
        remat = jax.value_and_grad(total)(case["kernel"], jax.checkpoint)
    chex.assert_trees_all_close(plain, remat, rtol=1e-6)


def test_new_values_do_not_compile_anew(rng):
    case = jax.tree.map(jnp.asarray, draw(rng))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def loss(case):
        return zlpr_linear_loss(
            case["hidden"], case["kernel"], case["labels"], block_size=16
        )

    loss(case)
    loss({**case, "labels": case["labels"] * 0 - 1})


def temporary_bytes(dtype, rows, width, classes, **options):
    shape = jax.ShapeDtypeStruct
    operands = (
        shape((rows, width), dtype),
        shape((width, classes), dtype),
        shape((rows, 8), jnp.int32),
    )

    def loss(hidden, kernel, labels):
        return zlpr_linear_loss(hidden, kernel, labels, **options).mean()

    lowered = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*operands)
    compiled = lowered.compile()
    return compiled.memory_analysis().temp_size_in_bytes, compiled.as_text()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_neither_scores_nor_a_second_kernel_in_memory(dtype):
    rows, width, classes = 256, 128, 100_003
    used, program = temporary_bytes(dtype, rows, width, classes)
    # A float32 copy of the kernel would be 49 MiB, the scores 98 MiB.
    assert used < 30 * 2**20
    assert f"[{rows},{classes}]" not in program


def test_few_rows_take_the_plain_path():
    used, program = temporary_bytes(jnp.float32, 8, 128, 10_007)
    assert "[8,10007]" in program
    assert "while" not in program
    assert used < 8 * 10_007 * 4 * 3
