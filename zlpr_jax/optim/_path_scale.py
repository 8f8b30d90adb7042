"""Learning rates that differ by the path of a parameter, and by layer of a stack."""

import math
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from zlpr_jax._typing import PyTree
from zlpr_jax.optim._arrays import is_array_like, map_arrays, path_name, scaled, unbox

Factor: TypeAlias = float | int | Sequence[float]
"""What an update is multiplied by: a number, or one for each layer of a stack."""


def scale_by_path(
    rules: Sequence[tuple[str, Factor]],
) -> optax.GradientTransformationExtraArgs:
    """Multiply updates by the factor of the first rule that matches their path.

    Put it last in a chain: behind a learning rate and decoupled weight decay it makes
    both of them smaller or larger for some of the parameters. A factor for each layer
    is for parameters that are stacked, whose first axis is that of the layers.

    Args:
        rules: Pairs of a regular expression, searched for in the "/"-joined path of a
            parameter, and a factor >= 0, or one for each index of its first axis.
            Updates that no rule matches stay as they are.

    Returns:
        An optax transformation without a state.

    Raises:
        ValueError: By `scale_by_path`, if a factor is negative or not finite; by
            `init`, if a rule matches no parameter, or there are more or fewer factors
            than a parameter has layers.

    Examples:
        >>> import jax.numpy as jnp
        >>> tx = scale_by_path([("^stack/", (0.25, 0.5)), ("^embedding$", 0.125)])
        >>> params = {
        ...     "embedding": jnp.ones(3),
        ...     "stack": {"bias": jnp.ones((2, 1))},
        ...     "head": jnp.ones(1),
        ... }
        >>> updates, _ = tx.update(params, tx.init(params))
        >>> updates["stack"]["bias"].tolist(), updates["embedding"].tolist()
        ([[0.25], [0.5]], [0.125, 0.125, 0.125])
    """
    ordered = [(re.compile(pattern), _checked(pattern, f)) for pattern, f in rules]

    def first(path: str) -> tuple[str, Any] | None:
        for pattern, factor in ordered:
            if pattern.search(path):
                return pattern.pattern, factor
        return None

    def init(params: PyTree) -> optax.EmptyState:
        leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_array_like)
        shapes = {path_name(path): unbox(leaf).shape for path, leaf in leaves}
        for pattern, _ in ordered:
            if not any(pattern.search(name) for name in shapes):
                raise ValueError(
                    f"the rule {pattern.pattern!r} matches no parameter; there are "
                    f"{', '.join(shapes)}."
                )
        for name, shape in shapes.items():
            if (rule := first(name)) is not None:
                _check_layers(*rule, name, shape)
        return optax.EmptyState()

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        del params, extra_args

        def scale(path: str, update: Array) -> Array:
            rule = first(path)
            if rule is None:
                return update
            _check_layers(*rule, path, update.shape)
            factor = rule[1]
            if factor.ndim:
                ones = (1,) * (update.ndim - 1)
                factor = jnp.asarray(factor, jnp.float32).reshape(-1, *ones)
            return scaled(update, factor)

        return map_arrays(scale, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def layerwise_rules(
    stacks: Sequence[tuple[str, int]], decay: float, *, rate: float = 1.0
) -> list[tuple[str, Factor]]:
    """Rules for `scale_by_path`: the nearer to the input, the smaller.

    The last layer has the factor `rate`, each one before it `decay` times that of the
    next.

    Args:
        stacks: From the output to the input, pairs of a regular expression and a number
            of layers: 0 for parameters that are one layer and not stacked.
        decay: In (0, 1]; 1 for the same factor everywhere.
        rate: The largest factor, > 0.

    Returns:
        Rules, in the order of `stacks`.

    Raises:
        ValueError: If `decay` or `rate` is out of its range.

    Examples:
        >>> layerwise_rules([("^blocks/", 2), ("^embedding", 0)], 0.5)
        [('^blocks/', (0.5, 1.0)), ('^embedding', 0.25)]
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be in (0, 1], got {decay}: 1 for no decay.")
    if not 0 < rate < math.inf:
        raise ValueError(f"rate must be > 0 and finite, got {rate}.")
    rules: list[tuple[str, Factor]] = []
    for pattern, layers in stacks:
        factors = tuple(rate * decay**n for n in reversed(range(max(layers, 1))))
        rules.append((pattern, factors if layers else factors[0]))
        rate = factors[0] * decay
    return rules


def _checked(pattern: str, factor: Factor) -> np.ndarray:
    array = np.asarray(factor, np.float64)
    if array.ndim > 1 or not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError(
            f"the factor of the rule {pattern!r} must be a number >= 0, or one for "
            f"each layer, got {factor}."
        )
    return array


def _check_layers(
    pattern: str, factor: np.ndarray, name: str, shape: tuple[int, ...]
) -> None:
    if factor.ndim and shape[:1] != factor.shape:
        raise ValueError(
            f"the rule {pattern!r} has {len(factor)} factors, one for each layer, but "
            f"the parameter {name!r} has the shape {shape}: its first axis must be "
            "that of the layers."
        )
