"""The transform matrix: every loss passes the same list."""

import subprocess
import sys
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from zlpr_jax.losses import zlpr_loss, zlpr_loss_with_integer_labels

ROWS, CLASSES = 8, 16


class Case(NamedTuple):
    loss: Any
    labels: Any


def cases():
    rng = np.random.default_rng(1)
    hard = rng.random((ROWS, CLASSES)) < 0.3
    soft = rng.uniform(0.01, 0.99, (ROWS, CLASSES)).astype(np.float32)
    indices = rng.integers(-1, CLASSES, (ROWS, 3)).astype(np.int32)
    return {
        "bool": Case(zlpr_loss, hard),
        "int": Case(zlpr_loss, hard.astype(np.int32)),
        "soft": Case(zlpr_loss, soft),
        "indices": Case(zlpr_loss_with_integer_labels, indices),
    }


@pytest.fixture(params=["bool", "int", "soft", "indices"])
def case(request):
    loss, labels = cases()[request.param]
    return Case(loss, jnp.array(labels))


@pytest.fixture
def logits(rng):
    return jnp.array(2 * rng.normal(size=(ROWS, CLASSES)), jnp.float32)


@pytest.fixture
def options(rng):
    return {
        "where": jnp.array(rng.random((ROWS, CLASSES)) < 0.8),
        "threshold": jnp.array(rng.normal(size=ROWS), jnp.float32),
    }


@partial(jax.jit, static_argnums=0)
def value_and_gradient(loss, logits, labels, **options):
    return jax.value_and_grad(lambda s: jnp.sum(loss(s, labels, **options)))(logits)


def test_jit_is_eager(case, logits, options):
    def run(logits, options):
        return value_and_gradient(case.loss, logits, case.labels, **options)

    with jax.disable_jit():
        eager = run(logits, options)
    chex.assert_trees_all_close(jax.jit(run)(logits, options), eager, rtol=1e-5)


def test_vmap_is_a_loop(case, logits, options):
    def row(s, t, where, threshold):
        return jax.value_and_grad(
            lambda s: case.loss(s, t, where=where, threshold=threshold)
        )(s)

    row = jax.jit(row)
    batched = jax.vmap(row)(logits, case.labels, *options.values())
    for i in range(ROWS):
        one = row(logits[i], case.labels[i], *(x[i] for x in options.values()))
        chex.assert_trees_all_close(
            jax.tree.map(lambda x: x[i], batched),
            one,
            rtol=2e-6,
            atol=1e-7,
        )


def test_gradient_of_vmap(case, logits):
    @jax.jit
    @jax.grad
    def gradient(s):
        return jnp.sum(jax.vmap(case.loss, in_axes=(1, 0))(s, case.labels))

    mapped = gradient(logits.T)
    _, plain = value_and_gradient(case.loss, logits, case.labels)
    chex.assert_trees_all_close(mapped.T, plain, rtol=2e-6, atol=1e-7)


def test_derivatives_of_both_modes(case, logits, options):
    with jax.enable_x64(True):
        logits = jnp.asarray(logits, jnp.float64)
        where = options["where"]
        threshold = jnp.asarray(options["threshold"], jnp.float64)

        # check_grads takes its differences on NumPy arrays: jit makes them JAX ones.
        @jax.jit
        def total(s, s0):
            return jnp.sum(case.loss(s, case.labels, where=where, threshold=s0))

        check_grads(total, (logits, threshold), order=1, rtol=1e-5)


def test_jvp_and_hessian(case, logits):
    @jax.jit
    def total(s):
        return jnp.sum(case.loss(s, case.labels))

    direction = jnp.cos(jnp.arange(logits.size, dtype=jnp.float32)).reshape(ROWS, -1)
    _, tangent = jax.jvp(total, (logits,), (direction,))
    np.testing.assert_allclose(
        tangent, jnp.vdot(jax.grad(total)(logits), direction), rtol=1e-5
    )
    hessian = jax.jit(jax.hessian(total))(logits).reshape(logits.size, -1)
    chex.assert_trees_all_close(hessian, hessian.T, atol=1e-6)
    reverse = jax.jit(jax.jacrev(jax.grad(total)))(logits).reshape(logits.size, -1)
    chex.assert_trees_all_close(hessian, reverse, atol=1e-6)
    assert np.linalg.eigvalsh(np.asarray(hessian, np.float64)).min() > -1e-6


def test_every_row_takes_its_own_cotangent(case, logits):
    _, pull = jax.vjp(lambda s: case.loss(s, case.labels), logits)
    weights = jnp.array([0.0, 1.0, -2.0, 1e3, 1e-3, 0.5, 7.0, 3.0])
    (plain,), (weighted,) = pull(jnp.ones(ROWS)), pull(weights)
    chex.assert_trees_all_close(weighted, weights[:, None] * plain, rtol=1e-5)
    assert jnp.all(weighted[0] == 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(case, logits, dtype):
    half = logits.astype(dtype)
    loss, pull = jax.vjp(lambda s: case.loss(s, case.labels), half)
    (gradient,) = pull(jnp.ones_like(loss))
    assert loss.dtype == jnp.float32
    assert gradient.dtype == dtype
    exact, pull = jax.vjp(lambda s: case.loss(s, case.labels), half.astype(jnp.float32))
    chex.assert_trees_all_equal(loss, exact)
    chex.assert_trees_all_equal(gradient, pull(jnp.ones(ROWS))[0].astype(dtype))


def test_float64_in_float64_out(case, logits, oracle):
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(logits, np.float64))
        labels = np.asarray(case.labels)
        if case.loss is zlpr_loss_with_integer_labels:
            dense = np.zeros((ROWS, CLASSES))
            for row, indices in enumerate(labels):
                dense[row, indices[indices >= 0]] = 1
            labels = dense
        loss, pull = jax.vjp(lambda s: case.loss(s, case.labels), wide)
        assert loss.dtype == jnp.float64
        assert pull(loss)[0].dtype == jnp.float64
        np.testing.assert_allclose(loss, oracle(wide, labels), rtol=1e-13)
        # Wide labels and thresholds do not widen the result.
        if case.labels.dtype != jnp.bool_:
            kind = "float64" if case.labels.dtype == jnp.float32 else "int64"
            threshold = jnp.zeros(ROWS, jnp.float64)
            narrow = case.loss(logits, case.labels.astype(kind), threshold=threshold)
            assert narrow.dtype == jnp.float32


X64_PROGRAM = """
import jax, jax.numpy as jnp
jax.config.update("jax_numpy_dtype_promotion", "strict")
assert jax.config.jax_enable_x64
from zlpr_jax.losses import *
for dtype, result in (("float32", "float32"), ("float64", "float64")):
    s = jnp.ones((2, 3), dtype)
    y = jnp.array([[True, False, True]] * 2)
    i = jnp.array([[0, 2]] * 2)
    assert i.dtype == "int64"
    for loss in (
        zlpr_loss(s, y, threshold=0.5),
        zlpr_loss(s, y.astype("float64"), threshold=0.5),
        zlpr_loss_with_integer_labels(s, i, threshold=0.5),
        zlpr_probabilities(s),
    ):
        assert loss.dtype == result, (dtype, loss.dtype)
    gradient = jax.grad(lambda s: zlpr_loss_with_integer_labels(s, i).sum())(s)
    assert gradient.dtype == dtype
    counts = label_counts(zlpr_predict(s), y)
    assert {x.dtype.name for x in counts} == {"int32"}
    assert micro_f1(counts).dtype == macro_f1(counts).dtype == "float32"
    assert precision_at_k(s, y, k=2).numerator.dtype == "int32"
    assert {x.dtype.name for x in one_error(s, y)} == {"int32"}
"""


def test_x64_for_the_whole_process():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", X64_PROGRAM],
        env={
            "JAX_ENABLE_X64": "1",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_label_values_do_not_recompile(case, logits, options):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(logits, labels, options):
        return value_and_gradient(case.loss, logits, labels, **options)

    for labels in (case.labels, jnp.zeros_like(case.labels), case.labels[::-1]):
        step(logits, labels, options)
    step(logits, case.labels, {**options, "threshold": options["threshold"] + 1})


def test_debug_nans_is_clean(case, options):
    logits = jnp.full((ROWS, CLASSES), -50.0).at[:, 0].set(1e4).at[1].set(-1e4)
    with jax.debug_nans(True):
        for keywords in ({}, options):
            value_and_gradient(case.loss, logits, case.labels, **keywords)
            jax.jit(partial(value_and_gradient, case.loss, **keywords))(
                logits, case.labels
            )
        # Excluded: negative infinities, and a whole row.
        if case.loss is zlpr_loss:
            masked = jnp.where(case.labels.astype(bool), logits, -jnp.inf)
            if case.labels.dtype != jnp.float32:
                value_and_gradient(case.loss, masked, case.labels)
        none = jnp.zeros((ROWS, CLASSES), bool)
        value_and_gradient(case.loss, logits, case.labels, where=none)


def test_pmap_of_jit_of_value_and_grad(case, logits):
    def mean(s, t):
        return jnp.mean(case.loss(s, t))

    split = jax.tree.map(
        lambda x: x.reshape(8, ROWS // 8, *x.shape[1:]), (logits, case.labels)
    )
    mapped = jax.pmap(jax.jit(jax.value_and_grad(mean)))(*split)
    for i in range(8):
        single = jax.jit(jax.value_and_grad(mean))(split[0][i], split[1][i])
        chex.assert_trees_all_close(
            jax.tree.map(lambda x: np.asarray(x)[i], mapped),
            single,
            rtol=2e-6,
            atol=1e-7,
        )


@pytest.mark.parametrize("spec", [P("x", None), P(None, "x")])
def test_sharded_is_unsharded(case, logits, spec):
    mesh = Mesh(np.array(jax.devices()[:8]), ("x",))
    dense = case.labels.shape == logits.shape
    labels = jax.device_put(
        case.labels, NamedSharding(mesh, spec if dense else P(spec[0], None))
    )
    placed = jax.device_put(logits, NamedSharding(mesh, spec))
    step = jax.jit(lambda s, t: value_and_gradient(case.loss, s, t))
    loss, gradient = step(placed, labels)
    expected = value_and_gradient(case.loss, logits, case.labels)
    chex.assert_trees_all_close(
        jax.tree.map(np.asarray, (loss, gradient)), expected, rtol=2e-6, atol=1e-7
    )
    # Neither side was gathered: the gradient lies where the logits do.
    assert gradient.sharding.is_equivalent_to(placed.sharding, 2)


def test_sharding_never_gathers_the_logits():
    mesh = Mesh(np.array(jax.devices()[:8]), ("x",))
    rows, classes = 8, 4096
    for labels in (jnp.bool_, jnp.float32):
        for spec in (P("x", None), P(None, "x")):
            sharding = NamedSharding(mesh, spec)
            text = (
                jax.jit(lambda s, t: value_and_gradient(zlpr_loss, s, t))
                .lower(
                    jax.ShapeDtypeStruct(
                        (rows, classes), jnp.float32, sharding=sharding
                    ),
                    jax.ShapeDtypeStruct((rows, classes), labels, sharding=sharding),
                )
                .compile()
                .as_text()
            )
            assert "all-to-all" not in text
            assert "collective-permute" not in text
            # Partial sums, one a row and device, may travel; classes may not.
            assert f"[{rows},{classes}]" not in text


def concatenated(logits, labels):
    """The zero class as a column, as in most implementations."""
    zero = jnp.zeros((len(logits), 1))
    negative = jnp.concatenate([jnp.where(labels, -jnp.inf, logits), zero], -1)
    positive = jnp.concatenate([jnp.where(labels, -logits, -jnp.inf), zero], -1)
    return jax.nn.logsumexp(negative, -1) + jax.nn.logsumexp(positive, -1)


def test_hard_labels_need_little_temporary_memory():
    logits = jax.ShapeDtypeStruct((64, 8192), jnp.float32)
    labels = jax.ShapeDtypeStruct((64, 8192), jnp.bool_)

    def temporary(loss):
        step = jax.jit(lambda s, t: value_and_gradient(loss, s, t))
        analysis = step.lower(logits, labels).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert temporary(zlpr_loss) <= 0.55 * temporary(concatenated)
