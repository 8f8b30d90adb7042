"""The label-sharded linear loss, compiled for 256 TPU chips by `losses.py`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.tpu_compile import devices, measure, spread
from zlpr_jax.losses import zlpr_linear_loss


def sharded(rows, width, classes, labels):
    """Rows over 4 chips, classes over 64: the mean loss and all of its gradients."""
    mesh = Mesh(np.array(devices("v5e:16x16")).reshape(4, 64), ("data", "label"))
    arrays = [
        ((rows, width), jnp.bfloat16, P("data")),
        ((width, classes), jnp.bfloat16, P(None, "label")),
        ((classes,), jnp.float32, P("label")),
        ((rows, labels), jnp.int32, P("data")),
    ]

    def mean(hidden, kernel, bias, labels):
        loss = zlpr_linear_loss(hidden, kernel, labels, bias=bias, axis_name="label")
        return jax.lax.pmean(jnp.mean(loss), "data")

    specs = tuple(spec for *_, spec in arrays)
    mean = jax.shard_map(mean, mesh=mesh, in_specs=specs, out_specs=P())
    return measure(
        jax.value_and_grad(mean, (0, 1, 2)),
        *(
            spread(shape, dtype, NamedSharding(mesh, spec))
            for shape, dtype, spec in arrays
        ),
    )
