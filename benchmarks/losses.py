"""ZLPR beside its peers: time, memory and accuracy, one figure per function.

    python benchmarks/losses.py [--only NAME ...] [--json] [--quick] [--save]

Times are medians of runs taken in turns in this one process, memory is what the
compiler says, and `ratio` is ours over the peer named in the last column. A figure that
this machine cannot show has no value (null with --json) and says what to install. On a
GPU or TPU the figures are those of that device, and `device_limits` is one more: the
losses as fractions of what the device can copy and multiply.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

import _peers
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _command import run_figures
from _measure import (
    MIB,
    ROOT,
    Program,
    Row,
    absent,
    in_fresh_process,
    medians,
    ratio,
    time_ratio,
)

from zlpr_jax.losses import (
    zlpr_linear_loss,
    zlpr_loss,
    zlpr_loss_with_integer_labels,
    zlpr_span_loss,
)

HERE = Path(__file__).resolve().parent
OPTAX = "optax.sigmoid_binary_cross_entropy, float32 labels"
CONCAT = "bert4keras, concatenated, float32 labels"


def step(loss, arguments=0):
    """Value and gradient of the mean loss."""
    return jax.value_and_grad(lambda *arrays: jnp.mean(loss(*arrays)), arguments)


def optax_bce(logits, labels):
    return optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1)


def concatenated(logits, labels):
    return _peers.concatenated(labels, logits)


def dense_linear(hidden, kernel, labels):
    scores = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
    return zlpr_loss_with_integer_labels(scores, labels)


def concatenated_linear(hidden, kernel, multi_hot):
    return _peers.concatenated(multi_hot, hidden @ kernel)


def dense_arrays(settings):
    """Logits, and rare boolean labels."""
    shape = settings.shape((256, 65_536), (16, 1024))
    keys = jax.random.split(jax.random.key(0))
    return 2 * jax.random.normal(keys[0], shape), jax.random.bernoulli(
        keys[1], 0.001, shape
    )


def linear_arrays(settings, labels=8):
    """Hidden states, a kernel and label indices."""
    rows, width, classes = settings.shape((512, 512, 131_072), (32, 32, 8192))
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (rows, width))
    kernel = jax.random.normal(keys[1], (width, classes)) / width**0.5
    return hidden, kernel, jax.random.randint(keys[2], (rows, labels), 0, classes)


def dense_time_vs_optax_bce(settings):
    logits, labels = dense_arrays(settings)
    return time_ratio(
        Program(step(zlpr_loss), logits, labels),
        Program(step(optax_bce), logits, labels.astype(jnp.float32)),
        OPTAX,
        settings.repeats or 9,
    )


def soft_time_vs_optax_bce(settings):
    logits, labels = dense_arrays(settings)
    labels = jax.random.uniform(jax.random.key(1), labels.shape)
    return time_ratio(
        Program(step(zlpr_loss), logits, labels),
        Program(step(optax_bce), logits, labels),
        OPTAX + " in [0, 1]",
        settings.repeats or 9,
    )


def dense_time_vs_concat(settings):
    logits, labels = dense_arrays(settings)
    return time_ratio(
        Program(step(zlpr_loss), logits, labels),
        Program(step(concatenated), logits, labels.astype(jnp.float32)),
        CONCAT,
        settings.repeats or 9,
    )


def dense_temp_vs_concat(settings):
    logits, labels = dense_arrays(settings)
    ours = Program(step(zlpr_loss), logits, labels).temp_mib
    peer = Program(step(concatenated), logits, labels.astype(jnp.float32)).temp_mib
    return ratio(ours, peer, "MiB", CONCAT)


def dense_time_vs_torch(settings):
    if importlib.util.find_spec("torch") is None:
        return absent("ratio", "pip install torch")
    logits, labels = dense_arrays(settings)
    return time_ratio(
        Program(step(zlpr_loss), logits, labels),
        _peers.torch_loss_and_gradient(np.array(logits), np.array(labels)),
        "eager torch on the CPU, masked with -inf, bool labels",
        settings.repeats or 9,
    )


def linear_temp_mib(settings):
    rows, width, classes = settings.shape((1024, 768, 670_091), (64, 32, 65_537))
    arrays = (
        jax.ShapeDtypeStruct((rows, width), jnp.bfloat16),
        jax.ShapeDtypeStruct((width, classes), jnp.bfloat16),
        jax.ShapeDtypeStruct((rows, 8), jnp.int32),
    )
    ours = Program(step(zlpr_linear_loss, (0, 1)), *arrays).temp_mib
    peer = Program(step(dense_linear, (0, 1)), *arrays).temp_mib
    versus = f"{peer:.0f} MiB, hidden @ kernel + integer labels"
    return Row(value=ours, unit="MiB", versus=versus)


def linear_time_vs_dense(settings):
    """Also the bare matrix products: four where the scores are computed twice."""
    hidden, kernel, labels = linear_arrays(settings)
    gradient = jnp.ones((len(hidden), kernel.shape[1]), hidden.dtype)
    products = (hidden, kernel, gradient)
    times = medians(
        {
            "ours": Program(step(zlpr_linear_loss, (0, 1)), hidden, kernel, labels),
            "dense": Program(step(dense_linear, (0, 1)), hidden, kernel, labels),
            "3": Program(_peers.matmuls_of_dense, *products),
            "4": Program(_peers.matmuls_of_blockwise, hidden + 1, *products),
        },
        settings.repeats or 5,
    )

    def row(ours, peer, what, part=""):
        return ratio(times[ours], times[peer], "ms", what, part)

    return [
        row("ours", "dense", "hidden @ kernel + integer labels"),
        row("4", "3", "4 bare matmuls / 3", "bare matmuls"),
        row("ours", "4", "linear loss / 4 bare matmuls", "ours / matmuls"),
        row("dense", "3", "hidden @ kernel + loss / 3", "dense / matmuls"),
    ]


def linear_time_vs_concat(settings):
    """The peer is given its multi-hot labels ready-made."""
    hidden, kernel, labels = linear_arrays(settings)
    rows = jnp.arange(len(hidden))[:, None]
    multi_hot = jnp.zeros((len(hidden), kernel.shape[1])).at[rows, labels].set(1)
    return time_ratio(
        Program(step(zlpr_linear_loss, (0, 1)), hidden, kernel, labels),
        Program(step(concatenated_linear, (0, 1)), hidden, kernel, multi_hot),
        "hidden @ kernel + " + CONCAT,
        settings.repeats or 5,
    )


def linear_temp_vs_dense(settings):
    arrays = linear_arrays(settings)
    ours = Program(step(zlpr_linear_loss, (0, 1)), *arrays).temp_mib
    peer = Program(step(dense_linear, (0, 1)), *arrays).temp_mib
    what = "hidden @ kernel + integer labels"
    return ratio(ours, peer, "MiB", what)


def integer_memory_vs_multihot(settings):
    """Both take the same integer labels; the peer makes them multi-hot inside."""
    shape = settings.shape((1024, 131_072), (64, 1024))
    logits = jax.ShapeDtypeStruct(shape, jnp.float32)
    labels = jax.ShapeDtypeStruct((shape[0], 8), jnp.int32)
    ours, peer = (
        Program(step(loss), logits, labels)
        for loss in (zlpr_loss_with_integer_labels, _peers.multi_hot_reference)
    )
    return ratio(
        ours.temp_mib + ours.argument_mib,
        peer.temp_mib + peer.argument_mib,
        "MiB of temp + arguments",
        "float32 multi-hot made from the same integer labels",
    )


def sharded_tpu_temp_mib(settings):
    """On this machine: the TPU compiler needs no TPU."""
    if importlib.util.find_spec("libtpu") is None:
        what = 'pip install -e ".[tpu]" (the TPU compiler, 0.7 GB)'
        return absent("MiB", what)
    rows, width, classes = settings.shape((4096, 768, 1_000_000), (512, 128, 65_536))
    tool = str(ROOT / "tests" / "tpu_compile.py")
    shape = json.dumps([rows, width, classes, 8])
    measured = in_fresh_process(
        *(tool, str(HERE / "_tpu.py"), "sharded", shape),
        environment=dict(os.environ),
        timeout=300,
    )
    travels = ", ".join(measured["collectives"]) or "nothing"
    local = rows / 4 * classes / 64 * 4 / MIB
    return Row(
        value=measured["temp_mib"],
        unit="MiB",
        versus=f"{local:.0f} MiB of scores a device; collectives: {travels}",
    )


def span_temp_vs_dense(settings):
    batch, heads, length = settings.shape((4, 16, 1024), (2, 2, 256))
    vectors = jax.ShapeDtypeStruct((batch, heads, length, 64), jnp.float32)
    spans = jax.ShapeDtypeStruct((batch, heads, 8, 2), jnp.int32)
    ours = Program(step(zlpr_span_loss, (0, 1)), vectors, vectors, spans).temp_mib
    scores = batch * heads * length**2 * 4 / MIB
    what = "the dense float32 span scores alone"
    return ratio(ours, scores, "MiB", what)


def gradient_error(x64):
    """On the CPU, where matrix products are as exact as their dtype."""
    flag = "--xla_force_host_platform_device_count=8"
    errors = in_fresh_process(
        str(HERE / "_gradients.py"),
        environment=os.environ
        | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": str(int(x64)), "XLA_FLAGS": flag},
        timeout=300,
    )
    worst = max(errors, key=errors.get)
    versus = f"NumPy float64; worst of {len(errors)}: {worst}"
    return Row(value=errors[worst], unit="relative", versus=versus)


def gradient_max_error(_):
    return gradient_error(x64=False)


def gradient_max_error_x64(_):
    return gradient_error(x64=True)


def device_limits(settings):
    """The least bytes and operations of each loss, over what the device reaches."""
    if jax.default_backend() == "cpu":
        return absent("ratio", "needs a GPU or TPU")
    dtype = jnp.bfloat16
    rows, classes = settings.shape((1024, 131_072), (64, 4096))
    tokens, width = settings.shape((8192, 1024), (256, 64))
    side, size = settings.shape((8192, 2**28), (256, 2**20))
    keys = iter(jax.random.split(jax.random.key(0), 6))
    block = jax.random.normal(next(keys), (size,))
    square = jax.random.normal(next(keys), (side, side), dtype)
    logits = jax.random.normal(next(keys), (rows, classes))
    hidden = jax.random.normal(next(keys), (tokens, width), dtype)
    kernel = jax.random.normal(next(keys), (width, classes), dtype) / width**0.5
    labels = jax.random.randint(next(keys), (tokens, 8), 0, classes)
    times = medians(
        {
            "copy": Program(lambda x: x + 1, block),
            "matmul": Program(jnp.matmul, square, square),
            "dense": Program(step(zlpr_loss), logits, logits > 3),
            "linear": Program(step(zlpr_linear_loss, (0, 1)), hidden, kernel, labels),
        },
        settings.repeats or 9,
    )
    # Logits and their gradient of 4 bytes, labels of 1; three matrix products.
    copied = {"copy": 8 * size, "dense": 9 * rows * classes}
    multiplied = {"matmul": 2 * side**3, "linear": 6 * tokens * width * classes}
    name, found = jax.devices()[0].device_kind, []
    for unit, power, work in (("GB/s", 1e9, copied), ("TFLOP/s", 1e12, multiplied)):
        limit, loss = work
        rate = {key: work[key] / (times[key] / 1e3) / power for key in work}
        versus = f"{rate[loss]:.4g} / {rate[limit]:.4g} {unit} ({times[loss]:.2f} ms)"
        found.append(
            Row(
                part=f"{loss} / {limit}",
                value=rate[loss] / rate[limit],
                unit="ratio",
                versus=f"{versus}, {jnp.dtype(dtype).name} matmuls, {name}",
            )
        )
    return found


# Each figure, and what it must not exceed; None is there to be read.
FIGURES = {
    dense_time_vs_optax_bce: 0.55,
    soft_time_vs_optax_bce: 0.75,
    dense_time_vs_concat: 0.9,
    dense_temp_vs_concat: 0.55,
    dense_time_vs_torch: None,
    linear_temp_mib: 150,
    linear_time_vs_dense: 1.1,
    linear_time_vs_concat: 0.65,
    linear_temp_vs_dense: 0.1,
    integer_memory_vs_multihot: 0.6,
    sharded_tpu_temp_mib: 64,
    span_temp_vs_dense: 1 / 8,
    gradient_max_error: 5e-6,
    gradient_max_error_x64: 1e-12,
    device_limits: None,
}


if __name__ == "__main__":
    sys.exit(run_figures("losses", __doc__, FIGURES))
