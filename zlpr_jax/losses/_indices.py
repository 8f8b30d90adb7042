"""Class indices, as the users give them and as a scatter needs them."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Integer

from zlpr_jax import _checks
from zlpr_jax._typing import AxisName
from zlpr_jax.losses import _mesh


def check_rows(labels: Array, rows: tuple[int, ...], of: str) -> None:
    """Raise `ValueError` unless `labels` has the shape `[*rows, K]`."""
    if labels.ndim == 0:
        raise ValueError(
            "labels must have a last axis for the indices of a row, got the shape (): "
            "use labels[..., None] for one index a row."
        )
    _checks.check_shape(
        "labels without its last axis",
        labels.shape[:-1],
        rows,
        f"that of {of}; the indices lie along the last axis",
    )


def local_classes(
    labels: Integer[Array, "*rows K"],
    num_classes: int,
    axis_name: AxisName | None = None,
) -> tuple[Int[Array, "*rows K"], Bool[Array, "*rows"]]:
    """Global indices as indices into the classes of this device.

    Padding and the classes of other devices become `num_classes`: JAX wraps a negative
    index round to the end of the axis, and drops only one past the end.

    Args:
        labels: global class indices; negative ones are padding.
        num_classes: the number of classes on this device.
        axis_name: the mesh axis that the classes are split over.

    Returns:
        Indices in [0, num_classes], and the rows with an index past the last class.
    """
    # A narrow integer may be unable to hold the number of classes, used below.
    if jnp.iinfo(labels.dtype).bits < 32:
        labels = labels.astype(jnp.int32)
    total = _mesh.total_classes(num_classes, axis_name)
    invalid = jnp.any(labels >= total, axis=-1)
    if axis_name is not None:
        first = _mesh.first_class(num_classes, axis_name).astype(labels.dtype)
        labels = jnp.where(labels < 0, -1, labels - first)
    here = (labels >= 0) & (labels < num_classes)
    return jnp.where(here, labels, num_classes).astype(jnp.int32), invalid


def without_repeats(
    local: Int[Array, "*rows K"], num_classes: int
) -> Int[Array, "*rows K"]:
    """The same indices sorted, each class named once and absent ones last."""
    local = jnp.sort(local, axis=-1)
    repeated = local[..., 1:] == local[..., :-1]
    first = jnp.zeros((*local.shape[:-1], 1), jnp.bool_)
    repeated = jnp.concatenate([first, repeated], axis=-1)[..., : local.shape[-1]]
    return jnp.where(repeated, num_classes, local)
