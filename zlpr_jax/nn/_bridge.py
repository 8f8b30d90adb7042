"""From a Flax module to pure functions of plain nested dicts."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx

from zlpr_jax._typing import PyTree


class Functional(NamedTuple):
    """A module as a pure function and the two trees it takes.

    Attributes:
        apply: `(params, state, *args, **kwargs) -> (output, state)`.
        params: The trained arrays (`nnx.Param`), a plain nested dict.
        state: Every other variable, such as batch statistics, a plain nested dict.
    """

    apply: Callable[..., tuple[Any, PyTree]]
    params: PyTree
    state: PyTree


def functionalize(module: nnx.Module, *, method: str = "__call__") -> Functional:
    """Split a Flax NNX module, once, into `apply`, `params` and `state`.

    The result is all that `jax.jit`, `jax.grad`, `jax.lax.scan` and optax need; no NNX
    transformation is involved afterwards.

    Args:
        module: Any NNX module. Randomness at call time should enter through an
            argument: an `nnx.Rngs` held by the module would be part of `state`.
        method: Name of the method that `apply` calls.

    Returns:
        The triple `Functional(apply, params, state)`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> apply, params, state = functionalize(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
        >>> sorted(params)
        ['bias', 'kernel']
        >>> logits, state = apply(params, state, jnp.ones((5, 3)))
        >>> logits.shape
        (5, 2)
    """
    graph, params, state = nnx.split(module, nnx.Param, ...)

    def apply(params: PyTree, state: PyTree, *args: Any, **kwargs: Any):
        merged = nnx.merge(graph, params, state)
        output = getattr(merged, method)(*args, **kwargs)
        return output, nnx.to_pure_dict(nnx.state(merged, nnx.Not(nnx.Param)))

    return Functional(apply, nnx.to_pure_dict(params), nnx.to_pure_dict(state))
