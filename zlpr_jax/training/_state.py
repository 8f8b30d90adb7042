"""What training changes, as one pytree, and where it lies."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from zlpr_jax import optim
from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.training._config import FitConfig
from zlpr_jax.training._mesh import param_shardings, replicated


class TrainState(NamedTuple):
    """Everything that a step reads and writes; a checkpoint holds all of it.

    Attributes:
        step: Steps begun, int32.
        skipped: How many of the last ones in a row were skipped, int32.
        key: Key data that every step folds its number into.
        params: Parameters.
        state: The task's state.
        opt_state: The optimizer's state.
        ema: The moving average of the parameters, or `None`.
    """

    step: PyTree
    skipped: PyTree
    key: PyTree
    params: PyTree
    state: PyTree
    opt_state: PyTree
    ema: PyTree

    @property
    def evaluated(self) -> PyTree:
        """The parameters to evaluate and to return."""
        return self.params if self.ema is None else self.ema


class Start(NamedTuple):
    """How training begins.

    Attributes:
        init: `(key, initial) -> TrainState`, jitted: on the devices, each array where
            it will stay.
        like: The state as `jax.ShapeDtypeStruct`s, with their shardings on a mesh.
    """

    init: Callable[..., TrainState]
    like: TrainState


def start_of(
    task: Task,
    tx: optax.GradientTransformation,
    config: FitConfig,
    mesh: Mesh | None = None,
    initial: tuple[PyTree, PyTree] | None = None,
) -> Start:
    """Return how to begin, without beginning: nothing is computed yet.

    Args:
        task: What to train.
        tx: The optimizer.
        config: Says whether there is a moving average.
        mesh: The devices; `None` for the default one.
        initial: Parameters and state to begin with, instead of those of `task.init`.
    """
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: initial))
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    return _start(task, tx, config.ema is not None, mesh, structure, shapes)


# One compilation serves every seed.
@functools.lru_cache(maxsize=16)
def _start(
    task: Task,
    tx: optax.GradientTransformation,
    averaged: bool,
    mesh: Mesh | None,
    structure: Any,
    shapes: tuple[Any, ...],
) -> Start:
    def init(key: PyTree, initial: tuple[PyTree, PyTree] | None) -> TrainState:
        init_key, key = jax.random.split(key)
        params, state = task.init(init_key) if initial is None else initial
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
            key=jax.random.key_data(key),
            params=params,
            state=state,
            opt_state=tx.init(params),
            ema=params if averaged else None,
        )

    initial = structure.unflatten([jax.ShapeDtypeStruct(*shape) for shape in shapes])
    like = jax.eval_shape(init, jax.random.key(0), initial)
    shardings = state_shardings(task, tx, mesh, like)
    if shardings is not None:
        like = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=place
            ),
            like,
            shardings,
        )
    # Steps write over the state. What comes from outside may be somebody else's, and
    # the average begins as the parameters themselves: a jitted function gives copies.
    return Start(jax.jit(init, out_shardings=shardings), like)


def state_shardings(
    task: Task,
    tx: optax.GradientTransformation,
    mesh: Mesh | None,
    state: TrainState,
) -> TrainState | None:
    """Where each array of `state` lies: by the task's rules, moments by their role."""
    if mesh is None:
        return None
    whole = replicated(mesh)
    params = param_shardings(mesh, state.params, task.rules)
    return TrainState(
        step=whole,
        skipped=whole,
        key=whole,
        params=params,
        state=jax.tree.map(lambda _: whole, state.state),
        opt_state=optim.state_shardings(tx, state.params, params),
        ema=None if state.ema is None else params,
    )
