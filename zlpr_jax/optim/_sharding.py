"""Where the state of an optimizer lives, and how large it is, before it exists."""

import contextlib
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import optax
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from zlpr_jax._typing import PyTree
from zlpr_jax.optim._arrays import is_array_like, path_name, unbox
from zlpr_jax.optim._storage import FactoredMoment

Transformation: TypeAlias = optax.GradientTransformation | optax.MultiSteps


@dataclass(frozen=True)
class _Parameter:
    leaf: Any  # with its box, if it has one
    shape: tuple[int, ...]
    dtype: Any
    sharding: NamedSharding


def state_shardings(
    tx: Transformation, params: PyTree, param_shardings: PyTree
) -> PyTree:
    """Return a sharding for every array of the state of an optimizer.

    A moment like its parameter is sharded as the parameter. Row and column means keep
    what is left of the spec of the parameter without the axes that they average over,
    whatever the lengths of these: for a matrix with P("x", "y") they are P("x") and
    P("y"). Any other array gets what jax infers from the parameters, and is replicated
    where that is nothing, as for counts.

    Nothing is computed or allocated. The result is meant for the `out_shardings` of
    `jax.jit`: without them a state may land on one device.

    Args:
        tx: Any optax transformation, or a chain of several, wrapped or not.
        params: Tree of arrays, or of their shapes and dtypes (`jax.ShapeDtypeStruct`).
        param_shardings: Tree like `params` with one `NamedSharding` for each array, all
            on one mesh, whose axes may be explicit or not.

    Returns:
        A tree like `tx.init(params)` of `NamedSharding`s on the same mesh. A moment
        like its parameter is also in the same kind of memory; all else is in the
        default memory of its devices. If jax cannot follow the parameters through
        `tx.init`, as where that merges axes which are split, every array that is not
        like its parameter is replicated.

    Raises:
        TypeError: If a parameter is given anything but a `NamedSharding`.
        ValueError: If the two trees differ or hold no array, if there are several
            meshes, or if a spec does not fit its parameter: it has too many entries,
            leaves one open, or splits an axis into unequal parts.

    Examples:
        >>> import jax, optax
        >>> from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        >>> from zlpr_jax.optim import adafactor
        >>> mesh = Mesh([jax.devices()[:1]], ("data", "model"))
        >>> params = {"kernel": jax.ShapeDtypeStruct((256, 256), "float32")}
        >>> shardings = {"kernel": NamedSharding(mesh, P("data", "model"))}
        >>> tx = adafactor()
        >>> placed = state_shardings(tx, params, shardings)
        >>> init = jax.jit(tx.init, out_shardings=placed)
        >>> [tuple(optax.tree.get(placed, name).spec) for name in ("row", "col")]
        [('data',), ('model',)]
    """
    parameters = _describe(params, param_shardings)
    mesh = jax.tree.leaves(parameters)[0].sharding.mesh
    by_name = {}
    for path, parameter in jax.tree_util.tree_leaves_with_path(parameters):
        # A state may keep the box of a parameter, or drop it as ours do.
        for inside, _ in jax.tree_util.tree_leaves_with_path(parameter.leaf):
            by_name[_names(path)] = by_name[_names(path + inside)] = parameter

    def inferred(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        held = leaf.sharding
        known = isinstance(held, NamedSharding)
        entries = list(held.spec) if known else [None] * leaf.ndim
        # As jax writes the spec of what it computes: at full length on explicit axes.
        if AxisType.Explicit not in mesh.axis_types:
            while entries and entries[-1] is None:
                entries.pop()
        return NamedSharding(mesh, P(*entries))

    def place(path: tuple[Any, ...], leaf: Any) -> PyTree:
        # The names of its fields may be those of parameters.
        if isinstance(leaf, FactoredMoment):
            return jax.tree.map(inferred, leaf)
        names = _names(path)
        tails = (names[start:] for start in range(len(names) + 1))
        parameter = next((by_name[tail] for tail in tails if tail in by_name), None)
        if parameter is not None and parameter.shape == leaf.shape:
            return parameter.sharding
        return inferred(leaf)

    return jax.tree_util.tree_map_with_path(
        place,
        _propagate(tx, parameters, mesh.abstract_mesh),
        is_leaf=lambda node: isinstance(node, FactoredMoment),
    )


def state_nbytes(tx: Transformation, params: PyTree) -> int:
    """Return the size in bytes of the state of an optimizer.

    Nothing is allocated. An array that is split over devices counts once.

    Args:
        tx: Any optax transformation.
        params: Tree of arrays, or of their shapes and dtypes (`jax.ShapeDtypeStruct`).

    Returns:
        The bytes of all arrays of `tx.init(params)`.

    Examples:
        >>> import jax
        >>> from zlpr_jax.optim import adafactor, adax
        >>> params = {"kernel": jax.ShapeDtypeStruct((1024, 1024), "float32")}
        >>> state_nbytes(adax(), params), state_nbytes(adafactor(), params)
        (8388612, 8200)
    """
    state = jax.eval_shape(tx.init, params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _propagate(tx: Transformation, parameters: PyTree, mesh: AbstractMesh) -> PyTree:
    """Return the shapes of the state of `tx`, with the shardings that jax infers.

    Where the axes of a mesh are explicit, the sharding of an array is a part of its
    type, and each operation says what it makes of it: a mean over an axis drops that
    axis from the spec, and no shapes have to be compared.
    """
    explicit = mesh.update(axis_types=(AxisType.Explicit,) * len(mesh.axis_names))

    def init(mesh: AbstractMesh | None) -> PyTree:
        def struct(p: _Parameter) -> PyTree:
            held = None if mesh is None else NamedSharding(mesh, p.sharding.spec)
            array = jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=held)
            return jax.tree.map(lambda _: array, p.leaf)

        return jax.eval_shape(tx.init, jax.tree.map(struct, parameters))

    # Some operations have no rule for axes that are split. An error of `tx.init` itself
    # comes again without them.
    with contextlib.suppress(Exception), jax.sharding.use_abstract_mesh(explicit):
        return init(explicit)
    return init(None)


def _describe(params: PyTree, param_shardings: PyTree) -> PyTree:
    """Return a tree like `params` that holds a `_Parameter` for each array."""
    paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(
        params, is_leaf=is_array_like
    )
    if not paths_and_leaves:
        raise ValueError(
            f"params must hold at least one array, got {treedef}: "
            "the mesh of the state is that of the parameters."
        )
    try:
        given = treedef.flatten_up_to(param_shardings)
    except ValueError as error:
        paths = [path for path, _ in paths_and_leaves]
        raise ValueError(_difference(paths, param_shardings)) from error

    structs = treedef.flatten_up_to(jax.eval_shape(lambda p: p, params))
    parameters = []
    for (path, leaf), struct, boxed in zip(
        paths_and_leaves, map(unbox, structs), given, strict=True
    ):
        name = path_name(path)
        sharding = boxed
        if not isinstance(boxed, dict | list | tuple) and unbox(boxed) is not None:
            sharding = unbox(boxed)
        if not isinstance(sharding, NamedSharding):
            raise TypeError(
                f"param_shardings must give a NamedSharding for the parameter {name!r}"
                f", got {sharding!r}: write NamedSharding(mesh, spec), with the spec "
                "P() for a parameter that every device holds."
            )
        parameters.append(_Parameter(leaf, struct.shape, struct.dtype, sharding))
        mesh = parameters[0].sharding.mesh
        if sharding.mesh != mesh:
            raise ValueError(
                "param_shardings must be on one mesh: the parameter "
                f"{path_name(paths_and_leaves[0][0])!r} is on {mesh} and {name!r} on "
                f"{sharding.mesh}; build all of them from the same mesh."
            )
        _check_fit(name, struct.shape, sharding)
    return treedef.unflatten(parameters)


def _difference(paths: list[tuple[Any, ...]], param_shardings: PyTree) -> str:
    """Say where the tree of shardings differs from that of the parameters."""
    expected = {path_name(path) for path in paths}
    given = {
        path_name(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(param_shardings)
    }
    if missing := sorted(expected - given):
        problem = f"nothing for the parameter {missing[0]!r}"
    elif unknown := sorted(given - expected):
        problem = f"{unknown[0]!r}, which params does not have"
    else:
        problem = f"other containers: {jax.tree.structure(param_shardings)}"
    return (
        f"param_shardings must be a tree like params, got {problem}: give one "
        "NamedSharding for each array, in the same containers."
    )


def _check_fit(name: str, shape: tuple[int, ...], sharding: NamedSharding) -> None:
    """Raise `ValueError` unless the spec splits a parameter into equal parts."""
    spec = tuple(sharding.spec)
    if len(spec) > len(shape):
        raise ValueError(
            f"the spec of the parameter {name!r} must have at most {len(shape)} entries"
            f", for its shape {shape}, got {sharding.spec}: leave out the others."
        )
    for axis, entry in enumerate(spec):
        if entry is P.UNCONSTRAINED:
            raise ValueError(
                f"the spec of the parameter {name!r} must name mesh axes, or None, for "
                f"axis {axis}, got {sharding.spec}: None leaves the axis whole."
            )
        names = () if entry is None else entry if isinstance(entry, tuple) else (entry,)
        parts = math.prod(sharding.mesh.shape[name] for name in names)
        if shape[axis] % parts:
            raise ValueError(
                f"axis {axis} of the parameter {name!r} of shape {shape} must be "
                f"divisible by {parts} to be split over {entry!r}, got {shape[axis]}: "
                "pad the axis, or leave it whole with None."
            )


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(path_name((key,)) for key in path)
