"""One training step: gradient, guard, update, moving average."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.training._config import FitConfig
from zlpr_jax.training._mesh import replicated, seen_by_modules
from zlpr_jax.training._state import TrainState, state_shardings


class StepOptions(NamedTuple):
    """What of a `FitConfig` a step is compiled for: one program for all seeds."""

    accumulate: int
    clip_norm: float | None
    ema: float | None
    compute_dtype: str
    remat: bool

    @classmethod
    def of(cls, config: FitConfig) -> "StepOptions":
        """The options of `config`."""
        return cls(*(getattr(config, name) for name in cls._fields))


class StepReport(NamedTuple):
    """What the host learns of a step, a few numbers.

    Attributes:
        metrics: The task's metrics, `{name: [sum, count]}`.
        skipped: Steps skipped in a row, this one the last; 0 if it was not.
        finite: Whether the gradient of each parameter was finite, and the loss; in the
            order of the parameters' leaves, the loss last.
        stop: Whether any process was asked to stop, if that was given.
    """

    metrics: dict[str, Float[Array, "2"]]
    skipped: Int[Array, ""]
    finite: Bool[Array, " leaves"]
    stop: Bool[Array, ""] | None


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def train_step(
    task: Task,
    tx: optax.GradientTransformation,
    options: StepOptions,
    mesh: Mesh | None,
    train: TrainState,
    batch: PyTree,
    stop: Bool[Array, " devices"] | None = None,
) -> tuple[TrainState, StepReport]:
    """Do one step.

    If the loss or a gradient is not finite, nothing but the counters changes, however
    often it happens. (`optax.apply_if_finite` applies the bad update once its limit is
    passed, and does not know of the task's state and the moving average.)

    Args:
        task: What to train.
        tx: The optimizer.
        options: Accumulation, clipping, moving average, dtype.
        mesh: The devices; `None` for the default one.
        train: The state, which is written over.
        batch: Arrays of one batch.
        stop: Whether each device's process was asked to stop (`from_each_process`): so
            they agree on the last step without waiting for each other.

    Returns:
        The new state and a `StepReport`.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(train.key), train.step)
    with seen_by_modules(mesh):
        loss, state, metrics, grads = _gradient(task, options, train, batch, key)
    finite = jnp.stack(
        [jnp.isfinite(leaf).all() for leaf in (*jax.tree.leaves(grads), loss)]
    )
    ok = finite.all()

    def update(grads: PyTree) -> tuple[PyTree, ...]:
        if options.clip_norm is not None:
            clip = optax.clip_by_global_norm(options.clip_norm)
            grads, _ = clip.update(grads, clip.init(grads))
        updates, opt_state = tx.update(grads, train.opt_state, train.params)
        params = optax.apply_updates(train.params, updates)
        return params, state, opt_state, _average(options, train, params)

    def keep(_: PyTree) -> tuple[PyTree, ...]:
        return train.params, train.state, train.opt_state, train.ema

    params, state, opt_state, ema = jax.lax.cond(ok, update, keep, grads)
    skipped = jnp.where(ok, 0, train.skipped + 1)
    new = TrainState(train.step + 1, skipped, train.key, params, state, opt_state, ema)
    pairs = {name: jnp.stack(pair) for name, pair in metrics.items()}
    asked = None if stop is None else stop.any()
    told = StepReport(pairs, skipped, finite, asked)
    if mesh is not None:
        places = state_shardings(task, tx, mesh, new), replicated(mesh)
        new, told = jax.lax.with_sharding_constraint((new, told), places)
    return new, told


def _gradient(
    task: Task, options: StepOptions, train: TrainState, batch: PyTree, key: Array
) -> tuple[Any, ...]:
    """Loss, new state, metrics and gradient of a batch, worked off in parts."""

    def loss_of(params: PyTree, state: PyTree, batch: PyTree, key: Array):
        if options.compute_dtype != "float32":
            params = jax.tree.map(_cast(options.compute_dtype), params)
        return task.loss(params, state, batch, key)

    if options.remat:
        keep = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        loss_of = jax.checkpoint(loss_of, policy=keep)
    grad = jax.value_and_grad(loss_of, has_aux=True)
    count = options.accumulate
    if count == 1:
        (loss, (state, metrics)), grads = grad(train.params, train.state, batch, key)
        return loss, state, metrics, grads

    def part(carry: tuple[Any, ...], inputs: tuple[PyTree, Array]):
        total, state, summed, grads = carry
        (loss, (state, metrics)), more = grad(train.params, state, *inputs)
        add = functools.partial(jax.tree.map, jnp.add)
        return (total + loss, state, add(summed, metrics), add(grads, more)), None

    # Every part takes rows from every device: rows stay where they are.
    parts = jax.tree.map(
        lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch
    )
    keys = jax.random.split(key, count)
    first = jax.tree.map(lambda x: x[0], (parts, keys))
    shapes = jax.eval_shape(grad, train.params, train.state, *first)
    (loss, (_, metrics)), grads = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), shapes
    )
    carry = (loss, train.state, metrics, grads)
    (loss, state, metrics, grads), _ = jax.lax.scan(part, carry, (parts, keys))
    mean = functools.partial(jax.tree.map, lambda x: x / count)
    return loss / count, state, metrics, mean(grads)


def _average(options: StepOptions, train: TrainState, params: PyTree) -> PyTree:
    if options.ema is None:
        return None
    step = train.step.astype(jnp.float32)
    decay = jnp.minimum(options.ema, (2 + step) / (11 + step))
    return jax.tree.map(
        lambda old, new: old + ((1 - decay) * (new - old)).astype(old.dtype),
        train.ema,
        params,
    )


def _cast(dtype: str) -> Any:
    def cast(x: Array) -> Array:
        return x.astype(dtype) if x.dtype == jnp.float32 else x

    return cast
