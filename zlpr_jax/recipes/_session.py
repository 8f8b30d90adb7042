"""What every recipe shares: a run folder, its log, and fits that are resumed."""

import contextlib
import dataclasses
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import optax
from jax.sharding import Mesh
from rich.console import Console

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.recipes._config import LoopConfig
from zlpr_jax.training import (
    CheckpointConfig,
    FitConfig,
    FitResult,
    MetricsLog,
    Profile,
    ProgressBar,
    RunFolder,
    default_run,
    evaluate,
    first_interrupt,
    fit,
    make_mesh,
    parse_mesh,
    read_json,
)
from zlpr_jax.training._processes import any_process, is_main, same_everywhere
from zlpr_jax.training._run import CHECKPOINTS, CONFIG, RESULTS, resume_command

T = TypeVar("T")


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, with more to do; the text says how far it came."""


class Session(NamedTuple):
    """A recipe at work.

    Attributes:
        path: The run folder.
        folder: What writes to it; `None` in all processes but the first.
        settings: Steps, batches and evaluation.
        mesh: Devices; `None` for one.
        checkpoints: How often, and a folder for the folders of all fits.
        keep_checkpoints: Whether they stay when the run is complete.
        profiles: What to trace of the first training; empty after it.
        log: Where metrics are written.
        console: Where to print; quiet in all processes but the first.
        bar: Shows progress.
        interrupted: Set by Ctrl-C and SIGTERM.
    """

    path: Path
    folder: RunFolder | None
    settings: FitConfig
    mesh: Mesh | None
    checkpoints: CheckpointConfig
    keep_checkpoints: bool
    profiles: Iterator[Profile]
    log: MetricsLog
    console: Console
    bar: ProgressBar
    interrupted: threading.Event

    def train(self, work: Callable[[], T]) -> T | None:
        """Call what calls `fit`, and show its progress.

        Args:
            work: Trains everything.

        Returns:
            What `work` returned; `None` if Ctrl-C or SIGTERM came, after saying so.
        """
        try:
            with self.bar:
                return work()
        except Interrupted as place:
            command = resume_command(self.path)
            say(self.console, f"interrupted at {place}; continue with: {command}")
            return None

    def fit(
        self,
        name: str,
        task: Task,
        tx: optax.GradientTransformation,
        records: Any,
        settings: FitConfig,
        *,
        checkpoints: str,
        log: MetricsLog,
        stage: str = "",
        validation: Any = None,
        initial: tuple[PyTree, PyTree] | None = None,
        profile: bool = True,
    ) -> FitResult:
        """Train, from where checkpoints left it.

        Args:
            name: What is trained, for the message of an interruption.
            task: The task.
            tx: The optimizer.
            records: Records to train on.
            settings: Steps, batches, evaluation, seed.
            checkpoints: The name of the folder of checkpoints of this fit alone.
            log: The log, bound to this fit.
            stage: What this is a part of `name` for; shown beside the bar.
            validation: Records that choose the parameters.
            initial: Parameters and state to begin with, instead of random ones.
            profile: Whether the first training, which is traced, may be this one.

        Raises:
            Interrupted: If there was a Ctrl-C or SIGTERM.
        """
        folder = self.checkpoints.folder / checkpoints
        self.bar.stage(stage, settings.steps)
        # Ctrl-C may also come between two fits
        if not any_process(self.interrupted.is_set()):
            fitted = fit(
                task,
                tx,
                records,
                settings,
                validation=validation,
                initial=initial,
                mesh=self.mesh,
                checkpoints=dataclasses.replace(self.checkpoints, folder=folder),
                metrics=log,
                report=self.bar.update,
                profile=next(self.profiles, None) if profile else None,
            )
            if not fitted.interrupted:
                return fitted
        place = f"{name}, {stage}" if stage else name
        raise Interrupted(f"step {_newest(folder)} of {place}")

    def evaluate(
        self, task: Task, params: PyTree, state: PyTree, records: Any
    ) -> tuple[dict[str, float], list[Any]]:
        """Scores and predictions of records."""
        size = self.settings.batch_size
        return evaluate(task, params, state, records, size, mesh=self.mesh)

    def complete(self, results: Mapping[str, Any]) -> None:
        """Write the results, after all else, and remove checkpoints."""
        if self.folder is None:
            return
        self.folder.write_json(RESULTS, results)
        if not self.keep_checkpoints:
            shutil.rmtree(self.checkpoints.folder)

    def say_paths(self, picture: str) -> None:
        """Print where the run folder and its picture are.

        Args:
            picture: The name of the picture.
        """
        say(self.console, f"run folder: {self.path}")
        say(self.console, f"picture: {self.path / picture}")


@contextlib.contextmanager
def open_session(
    name: str,
    config: LoopConfig,
    files: Mapping[str, Any],
    *,
    data: str,
    resume: bool,
    mesh: Mesh | None = None,
) -> Iterator[Session]:
    """Make or open a run folder, and close all of it in order.

    Args:
        name: Names the default run folder.
        config: The recipe's settings.
        files: What it begins with; config.json among them, with "sha256" of the data.
        data: What the data are, for the error if they are not those of the run.
        resume: Whether to go on with a run.
        mesh: Devices; by default those that the settings ask for.

    Raises:
        InputError: If the settings do not allow it, or the folder cannot be made, or
            gone on with.
    """
    # the same in all processes
    path = Path(same_everywhere(str(config.run or default_run(name))))
    settings, mesh = fit_config(config), mesh or mesh_of(config)
    events = path / "tensorboard" if config.tensorboard else None
    opened = _open(path, files, data, resume=resume)
    with (
        opened or contextlib.nullcontext() as folder,
        first_interrupt() as interrupted,
        MetricsLog(path / "metrics.jsonl", tensorboard=events) as log,
    ):
        console = Console(quiet=not is_main())
        saves = CheckpointConfig(
            folder=path / CHECKPOINTS,
            every=config.save_every,
            keep_last=config.keep_last,
            verify=config.verify,
        )
        traces = [Profile(path / "profile", config.profile)] if config.profile else []
        yield Session(
            path=path,
            folder=folder,
            settings=settings,
            mesh=mesh,
            checkpoints=saves,
            keep_checkpoints=config.keep_checkpoints,
            profiles=iter(traces),
            log=log,
            console=console,
            bar=ProgressBar(console),
            interrupted=interrupted,
        )


def mesh_of(config: LoopConfig) -> Mesh | None:
    """The devices that the settings ask for; of several processes all."""
    if config.mesh is not None:
        sizes = {"data": 1, "fsdp": 1, "label": 1, **parse_mesh(config.mesh)}
        return make_mesh(data=sizes["data"], fsdp=sizes["fsdp"], label=sizes["label"])
    if jax.process_count() > 1:
        return make_mesh(data=jax.device_count())
    return None


def fit_config(config: LoopConfig) -> FitConfig:
    """What of a recipe's settings is for `fit`."""
    names = {field.name for field in dataclasses.fields(FitConfig)} - {"seed"}
    return FitConfig(**{k: v for k, v in vars(config).items() if k in names})


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _open(
    path: Path, files: Mapping[str, Any], data: str, *, resume: bool
) -> RunFolder | None:
    """The run folder, in process 0; its errors are those of all processes."""
    folder, error = None, ""
    if is_main():
        try:
            if resume:
                begun = read_json(path / CONFIG)
                if begun.get("sha256") != files[CONFIG]["sha256"]:
                    raise InputError(
                        f"{path}: {data} are not those that the run began with: put "
                        "the files back, or train anew."
                    )
                folder = RunFolder.open(path)
            else:
                folder = RunFolder.make(path, files)
        except InputError as problem:
            error = str(problem)
    if error := same_everywhere(error):
        raise InputError(error)
    return folder


def _newest(checkpoints: Path) -> int:
    """The last step that was saved."""
    steps = [int(path.name) for path in checkpoints.glob("*") if path.name.isdecimal()]
    return max(steps, default=0)
