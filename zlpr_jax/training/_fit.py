"""One loop that trains any task with any optimizer, and survives."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.training._checkpoint import CheckpointConfig, Checkpoints
from zlpr_jax.training._config import FitConfig
from zlpr_jax.training._evaluate import evaluate
from zlpr_jax.training._input import Batches, BucketedPlan, ShuffledPlan
from zlpr_jax.training._interrupt import first_interrupt
from zlpr_jax.training._ledger import Ledger, Progress
from zlpr_jax.training._mesh import process_rows, put_batch
from zlpr_jax.training._metrics import MetricsLog
from zlpr_jax.training._processes import from_each_process
from zlpr_jax.training._profile import Profile
from zlpr_jax.training._state import start_of
from zlpr_jax.training._step import StepOptions, train_step

# Two of another version may differ in the last bits.
LIBRARIES = ("jax", "jaxlib", "optax", "orbax-checkpoint", "grain", "zlpr-jax")


class FitResult(NamedTuple):
    """What `fit` reached.

    Attributes:
        params: The trained parameters: those of the best evaluation if there were
            validation records, else the last.
        state: The state that belongs to `params`.
        step: The step that `params` were reached at.
        interrupted: Whether Ctrl-C or SIGTERM ended training early.
    """

    params: PyTree
    state: PyTree
    step: int
    interrupted: bool


@dataclasses.dataclass(kw_only=True)
class _Course:
    """How the evaluations went; a checkpoint holds it as JSON.

    Attributes:
        best: Headline of the best one.
        best_step: Its step.
        stale: Evaluations since then.
        finished: Whether training came to its end.
    """

    best: float | None = None
    best_step: int = 0
    stale: int = 0
    finished: bool = False

    def better(self, task: Task, step: int, scores: dict[str, Any]) -> bool:
        """Enter an evaluation; return whether it is the best so far."""
        name, direction = task.headline
        sign, value = (1 if direction == "max" else -1), scores[name]
        beaten = self.best is not None and sign * value <= sign * self.best
        if beaten or math.isnan(value):
            self.stale += 1
            return False
        self.best, self.best_step, self.stale = value, step, 0
        return True


def fit(
    task: Task,
    tx: optax.GradientTransformation,
    records: Sequence[Any],
    config: FitConfig,
    *,
    validation: Sequence[Any] | None = None,
    initial: tuple[PyTree, PyTree] | None = None,
    mesh: Mesh | None = None,
    checkpoints: CheckpointConfig | None = None,
    metrics: MetricsLog | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    profile: Profile | None = None,
) -> FitResult:
    """Train a task's parameters.

    Every batch is full: the records are visited in a new random order each epoch, and
    epochs are joined. The same seed on the same device gives the same result.

    With `checkpoints`, training goes on from what their folder holds: losses and
    parameters are those of a run that was never stopped, on one device to the last bit.
    If training had come to its end there, its result is returned at once.

    A step whose loss or gradient is not finite changes nothing and is reported;
    `config.skip_limit` of them in a row are an error, after a last checkpoint.

    The first Ctrl-C or SIGTERM ends training after the running step, with a checkpoint
    and with what was reached; a second one is an ordinary `KeyboardInterrupt`.

    Args:
        task: What to train.
        tx: The optimizer.
        records: A sequence with `len` and integer indexing; one with `take(indices)`
            gathers its batches by that.
        config: Steps, batch size, evaluation and seed.
        validation: Records to score every `eval_every` steps and at the end. The
            parameters of the best headline are kept.
        initial: `(params, state)` to begin with, instead of those of `task.init`.
        mesh: The devices (`make_mesh`); `None` for the default one. Batches are split
            over `data` and `fsdp`, parameters by `task.rules` and over `fsdp`.
        checkpoints: Where and how often to save.
        metrics: Where training metrics and scores are written.
        report: Called with a `Progress` every `config.report_every` steps, after each
            evaluation, and when there is something to tell.
        profile: Steps to write a profiler trace of.

    Returns:
        A `FitResult`.

    Raises:
        InputError: If there is no record, a checkpoint is of another configuration, or
            losses or gradients stop being finite.

    Examples:
        >>> import numpy as np
        >>> from zlpr_jax import optim
        >>> from zlpr_jax.data.multilabel import Record
        >>> from zlpr_jax.models.mlp import MLPConfig
        >>> from zlpr_jax.tasks import multilabel
        >>> records = [
        ...     Record(id="a", features=np.float32([1, 0]), labels=np.int32([0])),
        ...     Record(id="b", features=np.float32([0, 1]), labels=np.int32([1, 2])),
        ... ]
        >>> task = multilabel.make(MLPConfig(features=2, labels=3, hidden=(8,)))
        >>> config = FitConfig(steps=60, batch_size=2)
        >>> result = fit(task, optim.adax(0.1), records, config)
        >>> scores, _ = evaluate(task, result.params, result.state, records, 2)
        >>> scores["micro_f1"]
        1.0
    """
    if not len(records):
        raise InputError("there is no record to train on: the training set is empty.")
    size, options = config.batch_size, StepOptions.of(config)
    start = start_of(task, tx, config, mesh, initial)
    ledger = Ledger(config, records, start.like.params, metrics, report)
    course, step, train, best = _Course(), 0, None, None

    with contextlib.ExitStack() as stack:
        interrupted = stack.enter_context(first_interrupt())
        batches = stack.enter_context(_batches(task, records, config, mesh))
        tracing = None if profile is None else stack.enter_context(profile.session())

        # -- Go on from a checkpoint
        saves, described, other = None, {}, ""
        if checkpoints is not None:
            described = _describe(config, records, validation)
            saves = Checkpoints(
                checkpoints,
                direction=task.headline[1],
                warn=lambda text: ledger.say(step, text),
            )
            stack.enter_context(saves)
            like = {"train": start.like, "best": None}
            if validation is not None:
                like["best"] = (start.like.evaluated, start.like.state)
            found = saves.restore(like, lambda meta: _check(meta["fit"], described))
            if found is not None:
                step, train, best = found.step, found.tree["train"], found.tree["best"]
                course = _Course(**found.meta["course"])
                ledger.window = found.meta["window"]
                batches.set_state(found.meta["iterator"])
                other = _other_versions(found.meta["fit"]["versions"])
        if train is None:
            train = start.init(jax.random.key(config.seed), initial)
            if validation is not None:
                best = _copy((train.evaluated, train.state))
        if not course.finished:
            ledger.begin(step)
            if step:
                known = {} if course.best is None else {task.headline[0]: course.best}
                ledger.say(step, f"resumed at step {step}{other}", known or None)

        def save(score: float | None = None) -> None:
            if saves is None:
                return
            if metrics is not None:
                metrics.sync()
            meta = {
                "fit": described,
                "course": dataclasses.asdict(course),
                "window": ledger.window,
                "iterator": batches.get_state(),
            }
            saves.save(step, {"train": train, "best": best}, meta, score=score)

        # -- Train
        stop = False
        try:
            while not (course.finished or stop):
                if tracing is not None:
                    tracing.step(step)
                number, indices, arrays = next(batches)
                asked = ()
                if mesh is not None:
                    arrays = put_batch(mesh, arrays, size)
                    asked = (from_each_process(mesh, interrupted.is_set()),)
                train, told = train_step(task, tx, options, mesh, train, arrays, *asked)
                step = number + 1
                ledger.add(step, indices, told)

                # several processes have to agree on the step
                stop = interrupted.is_set() if mesh is None else ledger.stop
                course.finished = step == config.steps
                evaluating = config.evaluates(step)
                saving = checkpoints is not None and step % checkpoints.every == 0
                if not (evaluating or saving or stop):
                    continue
                ledger.settle()
                score = None
                if evaluating:
                    scores = None
                    if validation is not None:
                        now = (train.evaluated, train.state)
                        scores, _ = evaluate(task, *now, validation, size, mesh=mesh)
                        if course.better(task, step, scores):
                            best = _copy(now)
                        score = scores[task.headline[0]]
                    ledger.tell(step, scores)
                    if config.patience is not None and course.stale >= config.patience:
                        course.finished = True
                if saving or stop or course.finished:
                    save(score)
        except InputError:
            save()  # the last finite state: skipped steps have changed nothing
            raise
    if best is not None and course.best is not None:
        params, state = best
        return FitResult(params, state, course.best_step, stop)
    return FitResult(train.evaluated, train.state, step, stop)


def _batches(
    task: Task, records: Sequence[Any], config: FitConfig, mesh: Mesh | None
) -> Batches:
    size = config.batch_size
    if config.bucket:
        if task.lengths is None:
            raise InputError(
                "bucket puts records of similar length together, but the task has no "
                "lengths: leave it out."
            )
        plan = BucketedPlan(task.lengths(records), size, config.seed)
    else:
        plan = ShuffledPlan(len(records), size, config.seed)
    rows = None if mesh is None else process_rows(mesh, size)
    return Batches(task, records, plan, batch_size=size, steps=config.steps, rows=rows)


def _describe(
    config: FitConfig, records: Sequence[Any], validation: Sequence[Any] | None
) -> dict[str, Any]:
    """What a checkpoint has to agree with."""
    return {
        **dataclasses.asdict(config),
        "records": len(records),
        "validation records": None if validation is None else len(validation),
        "versions": _versions(),
    }


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def _other_versions(saved: dict[str, str]) -> str:
    changes = [
        f"{name} was {saved.get(name)} and is {version}"
        for name, version in _versions().items()
        if saved.get(name) != version
    ]
    if not changes:
        return ""
    return f", with other libraries: numbers may differ ({'; '.join(changes)})"


def _check(saved: dict[str, Any], now: dict[str, Any]) -> None:
    differing = [
        f"{name} was {saved.get(name)} and is {now.get(name)}"
        for name in sorted({*saved, *now} - {"versions"})
        if saved.get(name) != now.get(name)
    ]
    if differing:
        raise InputError(
            f"the checkpoint is of another configuration: {'; '.join(differing)}: "
            "train with the same one, or into another folder."
        )


@jax.jit
def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jax.numpy.copy, tree)
