"""The losses compiled by the TPU compiler, for one chip and split over many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from tests.tpu_compile import INSTALLED, call, devices, measure, spread
from zlpr_jax.losses import (
    zlpr_linear_loss,
    zlpr_loss,
    zlpr_loss_with_integer_labels,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not INSTALLED, reason='needs libtpu, the TPU compiler: pip install -e ".[tpu]"'
    ),
]

ROWS, WIDTH, CLASSES, NAMED = 4096, 768, 1_000_000, 8
# Over how many chips the rows and the classes are split.
MESHES = {"v5e:2x4": (1, 8), "v5e:16x16": (4, 64)}

HIDDEN = ((ROWS, WIDTH), jnp.bfloat16, P("data"))
KERNEL = ((WIDTH, CLASSES), jnp.bfloat16, P(None, "label"))
BIAS = ((CLASSES,), jnp.float32, P("label"))
INDICES = ((ROWS, NAMED), jnp.int32, P("data"))
LOGITS = ((ROWS, CLASSES), jnp.bfloat16, P("data", "label"))
MULTI_HOT = ((ROWS, CLASSES), jnp.bool_, P("data", "label"))
SOFT = ((ROWS, CLASSES), jnp.float32, P("data", "label"))
SMALL = ((64, 1024), jnp.float32, P("data", "label"))


def linear(hidden, kernel, bias, labels, axis_name=None):
    return zlpr_linear_loss(hidden, kernel, labels, bias=bias, axis_name=axis_name)


def gathered(logits, axis_name):
    """What none of the losses may do."""
    everywhere = jax.lax.all_gather(logits, axis_name, axis=1, tiled=True)
    return jax.lax.psum(jnp.max(everywhere, axis=1), axis_name)


def on_one_chip(chip, loss, arrays, differentiated):
    """The mean loss and its gradients with respect to the first arrays."""
    return measure(
        jax.value_and_grad(lambda *a: jnp.mean(loss(*a)), tuple(range(differentiated))),
        *(
            spread(shape, dtype, SingleDeviceSharding(chip))
            for shape, dtype, _ in arrays
        ),
    )


def split(mesh, loss, arrays, differentiated=1):
    """The same, rows and classes split over the mesh."""

    def mean(*arguments):
        total = jnp.mean(loss(*arguments, axis_name="label"))
        return jax.lax.pmean(total, "data")

    specs = tuple(spec for *_, spec in arrays)
    mean = jax.shard_map(mean, mesh=mesh, in_specs=specs, out_specs=P())
    return measure(
        jax.value_and_grad(mean, tuple(range(differentiated))),
        *(spread(shape, dtype, NamedSharding(mesh, p)) for shape, dtype, p in arrays),
    )


def programs(topology):
    chips = devices(topology)
    mesh = Mesh(np.array(chips).reshape(MESHES[topology]), ("data", "label"))
    layer = (HIDDEN, KERNEL, BIAS, INDICES)
    measured = {
        "linear": split(mesh, linear, layer, 3),
        "dense": split(mesh, zlpr_loss, (LOGITS, MULTI_HOT)),
        "soft": split(mesh, zlpr_loss, (LOGITS, SOFT)),
        "integer": split(mesh, zlpr_loss_with_integer_labels, (LOGITS, INDICES)),
    }
    if topology == "v5e:2x4":
        measured["one chip"] = on_one_chip(chips[0], linear, layer, 3)
        measured["gathered"] = split(mesh, gathered, (SMALL,))
    return measured


@pytest.mark.parametrize("topology", MESHES)
def test_losses_on_tpu(topology):
    measured = call(programs, topology)
    by_rows, by_classes = MESHES[topology]
    rows, classes = ROWS // by_rows, CLASSES // by_classes
    mib = rows * classes / 2**20

    for name in ("linear", "dense", "soft", "integer"):
        assert measured[name]["collectives"] == ["all-reduce"], name
    # The kernel is the largest array: nowhere, not in the fast memory of the chip
    # either, is there a score for every row and class.
    assert measured["linear"]["largest"] == WIDTH * classes
    assert measured["linear"]["temp_mib"] <= 64
    # Logits and labels come in and gradients go out; nothing of their size is between.
    # Of indices the labels are made, one byte an entry, which a scatter may copy twice.
    assert measured["dense"]["temp_mib"] <= 0.05 * mib
    assert measured["soft"]["temp_mib"] <= 0.05 * mib
    assert measured["integer"]["temp_mib"] <= 3.05 * mib

    if topology == "v5e:2x4":
        one_chip = measured["one chip"]
        assert one_chip["collectives"] == []
        assert one_chip["largest"] == WIDTH * CLASSES
        assert one_chip["temp_mib"] <= 64
        # What is looked for is found where it is.
        assert "all-gather" in measured["gathered"]["collectives"]
        assert measured["gathered"]["largest"] == 64 * 1024
