"""The train step of the recipes' tasks, compiled by the TPU compiler for many chips.

call(recipe_steps, "v5e:16x16")  # of tests.tpu_compile: the figures of 256 chips
"""

import math
import re

import jax
import numpy as np
import pytest

from tests.tpu_compile import ARRAY, COLLECTIVE, INSTALLED, call, devices, spread
from zlpr_jax.data.multilabel import Record
from zlpr_jax.models.mlp import MLPConfig
from zlpr_jax.nn import SparseFeatures
from zlpr_jax.optim import adaxw
from zlpr_jax.tasks import extreme, multilabel
from zlpr_jax.training import FitConfig, make_mesh
from zlpr_jax.training._mesh import batch_sharding
from zlpr_jax.training._state import start_of
from zlpr_jax.training._step import StepOptions, train_step

YEAST = MLPConfig(features=103, labels=14, hidden=(512, 256), dropout=0.5)
FEATURES, WIDTH, LABELS, NONZEROS, NAMED = 65_536, 512, 131_072, 64, 8
MANY = MLPConfig(features=FEATURES, labels=LABELS, hidden=(WIDTH,))
# Chips along data, fsdp and label: for yeast, and for very many labels.
MESHES = {
    "v5e:2x4": ((4, 2, 1), (2, 2, 2)),
    "v5e:16x16": ((256, 1, 1), (16, 4, 4)),
}
GATHER = re.compile(r"= (.*?)\ball-gather(?:-start)?\(")


def compiled_step(task, tx, mesh, batch, config):
    """Compile one step, and say what a device holds and what travels.

    Args:
        task: What to train.
        tx: The optimizer.
        mesh: Of abstract devices.
        batch: Arrays of a whole batch; only shapes and dtypes matter.
        config: Of the fit.

    Returns:
        `state_mib`, `batch_mib`: what one device has to hold of the training state
        and of the batch, by their shardings.
        `argument_mib`, `alias_mib`, `temp_mib`: what the program takes, what of that
        it writes over, and what it needs besides.
        `gathered`: elements of each array that a device receives the parts of.
        `collectives`: the kinds of communication, sorted.
    """
    train = start_of(task, tx, config, mesh).like
    rows = batch_sharding(mesh)
    batch = jax.tree.map(lambda array: spread(array.shape, array.dtype, rows), batch)
    options = StepOptions.of(config)
    compiled = train_step.lower(task, tx, options, mesh, train, batch).compile()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    gathered = (
        # of a start, which returns the parts and the whole, the whole
        max(math.prod(map(int, shape.split(","))) for shape in ARRAY.findall(result))
        for result in GATHER.findall(text)
    )
    return {
        "state_mib": mib(train),
        "batch_mib": mib(batch),
        "argument_mib": memory.argument_size_in_bytes / 2**20,
        "alias_mib": memory.alias_size_in_bytes / 2**20,
        "temp_mib": memory.temp_size_in_bytes / 2**20,
        "gathered": sorted(gathered),
        "collectives": sorted(set(COLLECTIVE.findall(text))),
    }


def mib(tree):
    """What one device holds of arrays that are laid out."""
    return (
        sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
        )
        / 2**20
    )


def few_labels_step(mesh, rows):
    task = multilabel.make(YEAST)
    features = np.zeros(YEAST.features, np.float32)
    records = [Record(id="", features=features, labels=np.int32([0]))]
    batch = task.batch(records, rows)
    return compiled_step(task, adaxw(1e-3), mesh, batch, FitConfig(batch_size=rows))


def many_labels_step(mesh, rows):
    task = extreme.make(
        MANY, label_counts=np.ones(LABELS, np.int64), rows=rows, mesh=mesh
    )
    batch = {
        "features": SparseFeatures(
            np.zeros((rows, NONZEROS), np.int32), np.zeros((rows, NONZEROS), np.float32)
        ),
        "labels": np.zeros((rows, NAMED), np.int32),
        "where": np.ones(rows, bool),
    }
    return compiled_step(task, adaxw(1e-3), mesh, batch, FitConfig(batch_size=rows))


def recipe_steps(topology):
    """The step of each recipe's task on all chips of a topology."""
    chips = devices(topology)
    few, many = (
        make_mesh(data=data, fsdp=fsdp, label=label, devices=chips)
        for data, fsdp, label in MESHES[topology]
    )
    return {
        "few labels": few_labels_step(few, 48 * len(chips)),
        "many labels": many_labels_step(many, 64 * len(chips)),
    }


@pytest.mark.slow
@pytest.mark.skipif(
    not INSTALLED, reason='needs libtpu, the TPU compiler: pip install -e ".[tpu]"'
)
def test_train_steps_on_tpu():
    measured = call(recipe_steps, "v5e:2x4")
    few, many = measured["few labels"], measured["many labels"]
    for step in measured.values():
        # The program takes what the shardings say, and writes all of the state over.
        needed = step["state_mib"] + step["batch_mib"]
        assert needed <= step["argument_mib"] <= needed + 0.05
        assert step["alias_mib"] >= step["state_mib"]

    # Parameters and two moments. Kernels are split over fsdp, the rest is small.
    split, whole = 103 * 512 + 512 * 256, 512 + 256 + 256 * 14 + 14
    assert few["state_mib"] == pytest.approx(12 * (split / 2 + whole) / 2**20, rel=1e-3)
    # The first layer is split over fsdp, the last over fsdp and label.
    split = FEATURES * WIDTH / 2 + WIDTH * LABELS / 4
    assert many["state_mib"] == pytest.approx(12 * split / 2**20, rel=0.01)
    # Of all that is split only the kernel of the last layer is ever gathered, for its
    # part of the labels, and the gradient is split before it is summed.
    assert many["gathered"] == [WIDTH * LABELS // 2]
    assert "reduce-scatter" in many["collectives"]
    # That kernel and its gradient, and nothing else of their size.
    assert many["temp_mib"] <= 1.1 * 2 * 4 * WIDTH * LABELS / 2 / 2**20
