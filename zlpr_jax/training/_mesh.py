"""Where arrays lie: one mesh, path rules for parameters, rows split over devices."""

import contextlib
import difflib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.nn._rows import ROWS
from zlpr_jax.optim._arrays import path_name

AXES = ("data", "fsdp", "label")
# A smaller parameter stays whole: to gather its parts would cost more than they save.
SMALL = 2**14


def parse_mesh(text: str) -> dict[str, int]:
    """Read the sizes of mesh axes, the arguments of `make_mesh`.

    Raises:
        InputError: If an axis is unknown or named twice, or a size is not a positive
            integer.

    Examples:
        >>> parse_mesh("data=4,fsdp=2")
        {'data': 4, 'fsdp': 2}
    """
    sizes: dict[str, int] = {}
    for part in text.replace(" ", "").split(","):
        name, equals, number = part.partition("=")
        if not equals:
            raise InputError(
                f"a mesh is written as axis=size,axis=size, such as data=4,fsdp=2; "
                f"got {text!r}."
            )
        if name not in AXES:
            hint = f"there are {', '.join(AXES)}."
            if near := difflib.get_close_matches(name, AXES, 1, cutoff=0.5):
                hint = f"did you mean {near[0]}?"
            raise InputError(f"the mesh {text!r} has no axis {name!r}: {hint}")
        if name in sizes:
            raise InputError(f"the mesh {text!r} names the axis {name} twice.")
        if not number.isdecimal() or int(number) < 1:
            raise InputError(
                f"the size of the mesh axis {name} must be an integer >= 1, "
                f"got {number!r}."
            )
        sizes[name] = int(number)
    return sizes


def make_mesh(
    *,
    data: int = 1,
    fsdp: int = 1,
    label: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Arrange devices for `fit`.

    The rows of a batch are split over `data` and `fsdp`, large parameters and their
    optimizer state over `fsdp`, the columns of an output layer with very many labels
    over `label`. Neighbours along `label` are the closest devices.

    Args:
        data: Devices along `data`.
        fsdp: Devices along `fsdp`.
        label: Devices along `label`.
        devices: What to choose from, the first ones first; all that jax sees if left
            out.

    Returns:
        A mesh with the axes `data`, `fsdp` and `label`.

    Raises:
        InputError: If a size is below 1, there are too few devices, or, with several
            processes or TPU slices, some of them would have no part.

    Examples:
        >>> dict(make_mesh(data=1).shape)
        {'data': 1, 'fsdp': 1, 'label': 1}
    """
    shape = (data, fsdp, label)
    if min(shape) < 1:
        raise InputError(f"every mesh axis must be >= 1, got {_written(shape)}.")
    everyone = jax.devices() if devices is None else list(devices)
    needed, platform = math.prod(shape), everyone[0].platform
    if needed > len(everyone):
        hint = ""
        if platform == "cpu":
            flag = f"--xla_force_host_platform_device_count={needed}"
            hint = f": set XLA_FLAGS={flag} to split the CPU"
        raise InputError(
            f"the mesh {_written(shape)} needs {needed} devices, "
            f"but there are {len(everyone)}{hint}."
        )
    if needed < len(everyone) and len({d.process_index for d in everyone}) > 1:
        raise InputError(
            f"the mesh {_written(shape)} uses {needed} of {len(everyone)} devices: "
            "with several processes it must use all of them."
        )
    chosen = everyone[:needed]
    try:
        grid = _grid(shape, chosen)
    except (AssertionError, NotImplementedError) as error:
        raise InputError(
            f"the mesh {_written(shape)} does not fit the layout of the "
            f"{len(everyone)} {platform} devices: use all of them, or 1, 2, 4, ..."
        ) from error
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def param_shardings(
    mesh: Mesh | AbstractMesh, params: PyTree, rules: Iterable[tuple[str, P]] = ()
) -> PyTree:
    """Say where each parameter lies: by the first rule that matches its path.

    A parameter without a rule is split over `fsdp`, along its largest axis that can be,
    the last of equals. One with fewer than 16,384 elements stays whole.

    Args:
        mesh: From `make_mesh`, or one without devices.
        params: Tree of arrays, or of their shapes (`jax.eval_shape`).
        rules: Pairs of a regular expression, searched for in the "/"-joined path, and
            the `PartitionSpec` of the parameters that it is found in.

    Returns:
        A tree like `params` of `NamedSharding`.

    Raises:
        InputError: If a rule matches no parameter, or does not fit one that it is the
            first to match.

    Examples:
        >>> import jax
        >>> from jax.sharding import AbstractMesh, PartitionSpec as P
        >>> mesh = AbstractMesh((1, 2, 4), ("data", "fsdp", "label"))
        >>> kernel = jax.ShapeDtypeStruct((256, 512), "float32")
        >>> params = {"hidden": kernel, "output": kernel}
        >>> placed = param_shardings(mesh, params, [("^out", P("fsdp", "label"))])
        >>> [tuple(sharding.spec) for sharding in placed.values()]
        [(None, 'fsdp'), ('fsdp', 'label')]
    """
    ordered = [(re.compile(pattern), spec) for pattern, spec in rules]
    paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    named = [(path_name(path), leaf.shape) for path, leaf in paths_and_leaves]
    for pattern, spec in ordered:
        if not any(pattern.search(name) for name, _ in named):
            raise InputError(
                f"the rule {pattern.pattern!r}: {spec} matches no parameter; there are "
                f"{', '.join(name for name, _ in named)}."
            )

    def place(name: str, shape: tuple[int, ...]) -> NamedSharding:
        for pattern, spec in ordered:
            if pattern.search(name):
                _check_rule(mesh, pattern.pattern, spec, name, shape)
                return NamedSharding(mesh, _shortest(mesh, spec))
        return NamedSharding(mesh, _over_fsdp(mesh.shape.get("fsdp", 1), shape))

    return treedef.unflatten([place(name, shape) for name, shape in named])


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over `data` and `fsdp`, and the same along `label`."""
    return NamedSharding(mesh, P(ROWS))


def seen_by_modules(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """A context in which modules keep rows where `batch_sharding` puts them."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def process_rows(mesh: Mesh, batch_size: int) -> npt.NDArray[np.int64]:
    """Return which rows of a batch this process has to build, in rising order.

    Without `label` across processes each row is built by one of them. They need not
    be neighbours: the layout of a TPU may be another one than the order of its hosts.

    Raises:
        InputError: If the rows cannot be split evenly.

    Examples:
        >>> process_rows(make_mesh(), 4)
        array([0, 1, 2, 3])
    """
    _check_rows(mesh, batch_size)
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    rows = [np.arange(batch_size)[place] for place in places.values() if place]
    return np.unique(np.concatenate(rows))


def put_batch(mesh: Mesh, arrays: PyTree, batch_size: int) -> PyTree:
    """Place the rows that this process built as its part of a whole batch.

    Args:
        mesh: From `make_mesh`.
        arrays: Tree of NumPy arrays with the rows of `process_rows`, in that order.
        batch_size: Rows over all processes.

    Returns:
        The tree of arrays with `batch_size` rows, split over the mesh.

    Raises:
        InputError: If the rows cannot be split evenly.
    """
    _check_rows(mesh, batch_size)
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(arrays, sharding)
    rows = process_rows(mesh, batch_size)

    def put(array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            first, last, _ = index[0].indices(batch_size)
            return array[slice(*np.searchsorted(rows, (first, last)))]

        shape = (batch_size, *array.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(put, arrays)


def fetch(tree: PyTree) -> PyTree:
    """Bring arrays to the host, whole, in every process; all have to call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def _grid(shape: tuple[int, int, int], devices: Sequence[Any]) -> np.ndarray:
    """Order devices so that neighbours in the mesh are neighbours in the machine."""
    # jax.make_mesh refuses several slices, and takes several hosts of GPUs for such
    slices = 1
    if devices[0].platform == "tpu":
        slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True
        )
    data, fsdp, label = shape
    if data % slices:
        raise InputError(
            f"data must be a multiple of the {slices} TPU slices, got {data}: only "
            "the sum of gradients over data may pass the network between slices."
        )
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, fsdp, label),
        (slices, 1, 1),
        devices,
        allow_split_physical_axes=True,
    )


def _check_rows(mesh: Mesh, batch_size: int) -> None:
    parts = math.prod(mesh.shape[axis] for axis in ROWS)
    if batch_size % parts:
        raise InputError(
            f"the batch size must be a multiple of the {parts} devices that rows are "
            f"split over ({_written(tuple(mesh.shape.values()))}), got {batch_size}."
        )


def _over_fsdp(parts: int, shape: tuple[int, ...]) -> P:
    fitting = [axis for axis, size in enumerate(shape) if size and size % parts == 0]
    if parts == 1 or math.prod(shape) < SMALL or not fitting:
        return P()
    axis = max(fitting, key=lambda axis: (shape[axis], axis))
    return P(*[None] * axis, "fsdp")


def _check_rule(
    mesh: Mesh | AbstractMesh, pattern: str, spec: P, name: str, shape: tuple[int, ...]
) -> None:
    rule = f"the rule {pattern!r}: {spec} does not fit the parameter {name!r} of shape"
    if len(spec) > len(shape):
        raise InputError(
            f"{rule} {shape}: it has {len(spec)} entries for {len(shape)} axes."
        )
    for axis, entry in enumerate(spec):
        names = _names(entry)
        if unknown := [part for part in names if part not in mesh.shape]:
            raise InputError(
                f"{rule} {shape}: the mesh has no axis {unknown[0]!r}, it has "
                f"{', '.join(mesh.shape)}."
            )
        parts = math.prod(mesh.shape[part] for part in names)
        if shape[axis] % parts:
            raise InputError(
                f"{rule} {shape}: axis {axis} cannot be split into {parts} equal parts "
                f"({'*'.join(names)}); pad it, or take another mesh."
            )


def _shortest(mesh: Mesh | AbstractMesh, spec: P) -> P:
    """Write a spec as jax writes that of a result, without mesh axes of one device.

    If that of the initial state were written in another way, the first step and the
    others would be two programs.
    """
    entries = []
    for entry in spec:
        names = tuple(name for name in _names(entry) if mesh.shape[name] > 1)
        entries.append(names if len(names) > 1 else names[0] if names else None)
    while entries and entries[-1] is None:
        entries.pop()
    return P(*entries)


def _names(entry: Any) -> tuple[str, ...]:
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def _written(shape: Sequence[int]) -> str:
    return ",".join(f"{name}={size}" for name, size in zip(AXES, shape, strict=True))
