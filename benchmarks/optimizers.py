"""The optimizers beside optax's: time, bytes moved, state and compile time.

    python benchmarks/optimizers.py [--only NAME ...] [--json] [--quick] [--save]

A step is `tx.update` and `optax.apply_updates` under one `jit`, with parameters and
state donated, as in training. Times are medians of steps taken in turns in this one
process, bytes and memory are what the compiler says, and `ratio` is ours over the peer
named in the last column. A figure that this machine cannot show has no value (null with
--json) and says what it needs.
"""

import gc
import statistics
import sys
import time

import _trees
import jax
import jax.numpy as jnp
import optax
from _command import run_figures
from _measure import MIB, Program, Row, absent, medians, ratio, short

from zlpr_jax.optim import (
    Factoring,
    adafactor,
    adax,
    adaxw,
    factored_adax,
    state_nbytes,
)

RATE = 1e-3


def compiled_step(tx, params):
    """Compile one step for parameters of these shapes."""

    # A function of its own each time, so that nothing is found in jit's cache.
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    jitted = jax.jit(step, donate_argnums=(0, 1))
    return jitted.lower(params, state, params).compile()


class Steps:
    """A compiled step and its arrays."""

    def __init__(self, compiled, tx, tree, grads, count=1):
        params = _trees.filled(tree, 0.05, seed=0)
        self.held = params, tx.init(params)
        self.grads = grads
        self.count = count
        self.compiled = compiled

    def __call__(self):
        """Take `count` steps, each from the arrays of the last, and wait."""
        for _ in range(self.count):
            self.held = self.compiled(*self.held, self.grads)
        jax.block_until_ready(self.held)


def step_times(transformations, tree, repeats, count=1):
    """Median milliseconds of a step of each, averaged over placements in memory.

    Where its arrays happen to lie makes a step up to 10 % slower or faster: everybody
    gets new ones several times, in another order.
    """
    programs = {name: compiled_step(tx, tree) for name, tx in transformations.items()}
    names, rounds = list(transformations), []
    for first in range(min(len(names), 4)):
        grads = _trees.filled(tree, 0.01, seed=1)
        steps = {
            name: Steps(programs[name], transformations[name], tree, grads, count)
            for name in names[first:] + names[:first]
        }
        rounds.append(medians(steps, repeats))
    return {name: statistics.mean(r[name] for r in rounds) / count for name in names}


def blocks(settings):
    return _trees.blocks(*settings.shape((512, 1408, 14_824, 7), (128, 352, 512, 1)))


def adafactor_time_vs_optax_adafactor(settings):
    times = step_times(
        {"ours": adafactor(RATE), "peer": optax.adafactor(RATE)},
        blocks(settings),
        settings.repeats or 15,
    )
    return ratio(times["ours"], times["peer"], "ms", "optax.adafactor")


def adafactor_time_vs_adam(settings):
    times = step_times(
        {
            "ours": adafactor(RATE),
            "momentum": adafactor(RATE, momentum=0.9, momentum_dtype=jnp.bfloat16),
            "adam": optax.adam(RATE),
            "adamw": optax.adamw(RATE),
        },
        blocks(settings),
        settings.repeats or 15,
    )

    def row(ours, peer, part=""):
        return ratio(times[ours], times[peer], "ms", f"optax.{peer}", part)

    return [
        row("ours", "adam"),
        row("ours", "adamw", "against adamw"),
        row("momentum", "adam", "with bfloat16 momentum"),
    ]


def adax_time_vs_adam(settings):
    """The figure has no penalty, as Adam has none."""
    times = step_times(
        {
            "adax": adax(RATE, l2=0.0),
            "penalty": adax(RATE),
            "adaxw": adaxw(RATE),
            "factored": factored_adax(RATE),
            "adam": optax.adam(RATE),
            "adamw": optax.adamw(RATE),
        },
        blocks(settings),
        settings.repeats or 15,
    )

    def row(ours, peer, what, part=""):
        return ratio(times[ours], times[peer], "ms", what, part)

    return [
        row("adax", "adam", "optax.adam; adax with l2=0"),
        row(
            "penalty", "adam", "optax.adam; adax at its l2 of 5e-4", "with its penalty"
        ),
        row("adaxw", "adamw", "optax.adamw", "adaxw against adamw"),
        row("factored", "adam", "optax.adam", "factored_adax"),
    ]


def moved(settings, ours, what, part=""):
    """Bytes accessed per parameter, and memory beyond arguments and results."""
    tree = blocks(settings)
    programs = {
        "ours": compiled_step(ours, tree),
        "optax.adafactor": compiled_step(optax.adafactor(RATE), tree),
        "optax.adam": compiled_step(optax.adam(RATE), tree),
    }
    accessed, temp = {}, {}
    for name, program in programs.items():
        accessed[name] = program.cost_analysis()["bytes accessed"] / _trees.size(tree)
        temp[name] = program.memory_analysis().temp_size_in_bytes / MIB

    def row(values, unit, versus, part):
        peers = ", ".join(f"{n} {short(values[n])}" for n in list(values)[1:])
        return Row(value=values["ours"], unit=unit, versus=peers + versus, part=part)

    return [
        row(accessed, "B/param", f"; {what}", part),
        row(temp, "MiB", "", f"temp memory, {part}" if part else "temp memory"),
    ]


def adafactor_bytes_per_param(settings):
    return moved(settings, adafactor(RATE), "clip and parameter scale")


def factored_adax_bytes_per_param(settings):
    plain = factored_adax(RATE, parameter_scale=False)
    return [
        *moved(settings, plain, "clip"),
        *moved(settings, factored_adax(RATE), "clip and parameter scale", "defaults"),
    ]


def adafactor_compile_vs_optax_adafactor(settings):
    leaves, side = settings.shape((400, 256), (8, 256))
    tree = _trees.equal(leaves, side)
    transformations = {
        "ours": adafactor(RATE),
        "optax.adafactor": optax.adafactor(RATE),
        "optax.adam": optax.adam(RATE),
    }
    seconds = {name: [] for name in transformations}
    kept = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    for _ in range(settings.repeats or (1 if settings.quick else 3)):
        for name, tx in transformations.items():
            # The first compiles jax's own small functions too: all start without them.
            jax.clear_caches()
            gc.collect()
            start = time.perf_counter()
            compiled_step(tx, tree)
            seconds[name].append(time.perf_counter() - start)
    jax.config.update("jax_enable_compilation_cache", kept)
    middle = {name: statistics.median(values) for name, values in seconds.items()}

    def row(peer, part=""):
        what = f"{peer}, {leaves} leaves of {side} x {side}"
        return ratio(middle["ours"], middle[peer], "s", what, part)

    return [row("optax.adafactor"), row("optax.adam", "against adam")]


def adafactor_state_bytes_per_param_bert(_):
    """Shapes only; the first row is the figure."""
    plain, by_layer = Factoring(), Factoring(axes=_trees.layers_apart)
    trees = {
        "BERT": ("kernels (768, 12, 64)", _trees.bert_base(heads=True), plain),
        "BERT 2-D": ("kernels (768, 768)", _trees.bert_base(heads=False), plain),
        "T5-11B": ("matrices", _trees.t5_11b(), plain),
        "stacked": ("decoder, 24 layers", _trees.stacked_decoder(), by_layer),
    }
    rows = []
    for name, (what, tree, rule) in trees.items():
        half = adafactor(factoring=rule, momentum=0.9, momentum_dtype=jnp.bfloat16)
        transformations = {
            "adafactor": adafactor(factoring=rule),
            "bf16 momentum": half,
            "adax": adax(),
            "optax.adamw": optax.adamw(RATE),
            "optax.adafactor": optax.adafactor(RATE),
        }
        count = _trees.size(tree)
        what = f"; {count / 1e6:.1f}M, {what}"  # beside the first of each tree
        for method, tx in transformations.items():
            held = state_nbytes(tx, tree)
            versus = f"{short(held / 1e6)} MB{what}"
            part = f"{name}, {method}" if rows else ""
            rows.append(
                Row(value=held / count, unit="B/param", versus=versus, part=part)
            )
            what = ""
    return rows


def step_over_bandwidth_floor(settings):
    """Steps run one after another without waiting, as in training."""
    if jax.default_backend() == "cpu":
        return absent("ratio", "needs a GPU or TPU")
    return bandwidth_rows(settings)


def bandwidth_rows(settings):
    """The time of a step over that of moving the bytes that it has to move."""
    (entries,) = settings.shape((2**28,), (2**20,))
    block = jnp.ones((entries,), jnp.float32)
    copy = medians({"copy": Program(lambda x: x + 1, block)}, settings.repeats or 15)
    bandwidth = 8 * entries / (copy["copy"] / 1e3)
    del block
    rows, columns, side = settings.shape((4096, 6144, 256), (64, 96, 16))
    trees = {
        "one leaf": _trees.shapes({"kernel": (rows, columns)}),
        "85 leaves": blocks(settings),
        "400 leaves": _trees.equal(400, side),
    }
    # All read gradient and parameter and write the parameter: 12 B. AdaX and Adam read
    # and write two moments: 16 B. AdaFactor reads the gradient twice more, for means
    # and clipping, and the parameter once more, for its size: 12 B.
    transformations = {
        "adafactor": (adafactor(RATE), 24),
        "adax": (adax(RATE), 28),
        "optax.adafactor": (optax.adafactor(RATE), 24),
        "optax.adamw": (optax.adamw(RATE), 28),
    }
    found = []
    for where, tree in trees.items():
        times = step_times(
            {name: tx for name, (tx, _) in transformations.items()},
            tree,
            settings.repeats or 9,
            count=10,
        )
        for name, (_, least) in transformations.items():
            floor = 1e3 * least * _trees.size(tree) / bandwidth
            what = f"{least} B a parameter at {bandwidth / 1e9:.4g} GB/s"
            part = f"{name}, {where}"
            found.append(ratio(times[name], floor, "ms", what, part))
    return found


# Each figure, and what it must not exceed; None is there to be read.
FIGURES = {
    adafactor_time_vs_optax_adafactor: 0.9,
    adafactor_time_vs_adam: 2.6,
    adafactor_bytes_per_param: 37,
    factored_adax_bytes_per_param: 33,
    adax_time_vs_adam: 0.95,
    adafactor_compile_vs_optax_adafactor: 1.0,
    adafactor_state_bytes_per_param_bert: 0.013,
    step_over_bandwidth_floor: None,
}


if __name__ == "__main__":
    sys.exit(run_figures("optimizers", __doc__, FIGURES))
