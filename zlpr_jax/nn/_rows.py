"""Where the rows of a batch lie, when training has several devices."""

import math

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

# The mesh axes that rows are split over.
ROWS = ("data", "fsdp")


def keep_rows(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Keep rows on their devices, if the mesh of the context has any for them.

    Otherwise the compiler may gather the rows of all devices along fsdp, which are many
    in training, where it has to gather the parts of a kernel.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if any(kinds.get(axis) is not AxisType.Auto for axis in ROWS):
        return x  # no such mesh, or somebody else says where rows lie
    if len(x) % math.prod(mesh.shape[axis] for axis in ROWS):
        return x
    free = P.UNCONSTRAINED
    return jax.lax.with_sharding_constraint(x, P(ROWS, free, free))
