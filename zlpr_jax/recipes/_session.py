"""What every recipe shares: a run folder, its log, and fits that are resumed."""

import contextlib
import dataclasses
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, with more to do; the text says how far it came."""


class Session(NamedTuple):
    """A recipe at work.

    Attributes:
        folder: The run folder; `None` in all processes but the first.
        settings: Steps, batches and evaluation.
        mesh: Devices; `None` for one.
        checkpoints: How often, and a folder for the folders of all fits.
        log: Where metrics are written.
        bar: Shows progress.
        interrupted: Set by Ctrl-C and SIGTERM.
    """

    folder: RunFolder | None
    settings: FitConfig
    mesh: Mesh | None
    checkpoints: CheckpointConfig
    log: MetricsLog
    bar: ProgressBar
    interrupted: threading.Event

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
        profile: Profile | None = None,
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
            profile: Steps to trace.

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
                profile=profile,
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

    def complete(self, results: Mapping[str, Any], *, keep_checkpoints: bool) -> None:
        """Write the results, after all else, and remove checkpoints."""
        if self.folder is None:
            return
        self.folder.write_json(RESULTS, results)
        if not keep_checkpoints:
            shutil.rmtree(self.checkpoints.folder)


@contextlib.contextmanager
def open_session(
    config: LoopConfig,
    path: Path,
    files: Mapping[str, Any],
    settings: FitConfig,
    *,
    mesh: Mesh | None,
    console: Console,
    data: str,
    resume: bool,
) -> Iterator[Session]:
    """Make or open a run folder, and close all of it in order.

    Args:
        config: The recipe's settings.
        path: The run folder.
        files: What it begins with; config.json among them, with "sha256" of the data.
        settings: Those of every fit, but for the seed.
        mesh: Devices.
        console: Where the bar is drawn.
        data: What the data are, for the error if they are not those of the run.
        resume: Whether to go on with a run.

    Raises:
        InputError: If the folder cannot be made, or gone on with.
    """
    events = path / "tensorboard" if config.tensorboard else None
    opened = _open(path, files, data, resume=resume)
    with (
        opened or contextlib.nullcontext() as folder,
        first_interrupt() as interrupted,
        MetricsLog(path / "metrics.jsonl", tensorboard=events) as log,
    ):
        bar = ProgressBar(console)
        saves = CheckpointConfig(
            folder=path / CHECKPOINTS,
            every=config.save_every,
            keep_last=config.keep_last,
            verify=config.verify,
        )
        yield Session(folder, settings, mesh, saves, log, bar, interrupted)


def run_path(config: LoopConfig, name: str) -> Path:
    """The run folder to make, the same in all processes."""
    return Path(same_everywhere(str(config.run or default_run(name))))


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


def interrupted_message(place: Interrupted, path: Path) -> str:
    """What to say of an interruption."""
    return f"interrupted at {place}; continue with: {resume_command(path)}"


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
