"""The command line as a function, and data for it."""

import contextlib
import io
import json
import signal
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from zlpr_jax.cli import main
from zlpr_jax.recipes import _session


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module", autouse=True)
def compile_once(cache):
    """Runs with the same settings compile the same: let the later ones find it."""
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def run():
    """Run the command line; return its status, stdout and stderr."""

    def run(*arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main([str(argument) for argument in arguments])
            except SystemExit as end:
                status = end.code
        return status, out.getvalue(), err.getvalue()

    return run


WORDS = {"sun": "bright warm", "rain": "wet grey", "wind": "gusty loud"}


@pytest.fixture(scope="session")
def write_texts():
    """Write rows of a few words, which say what their labels are."""

    def write(path, rows=80, seed=0):
        rng = np.random.default_rng(seed)
        with path.open("w") as stream:
            for number in range(rows):
                labels = [name for name in WORDS if rng.random() < 0.4]
                words = " ".join(WORDS[name] for name in labels) + " day"
                line = {"id": f"row{number}", "text": words, "labels": labels}
                stream.write(json.dumps(line) + "\n")
        return path

    return write


COUNTING = ("one", "two", "three", "four", "five", "six")


@pytest.fixture(scope="session")
def write_counting():
    """Write documents of eight words that count, from any word on."""

    def write(path, rows=60, seed=0):
        starts = np.random.default_rng(seed).integers(0, len(COUNTING), rows)
        with path.open("w") as stream:
            for start in starts:
                words = [COUNTING[(start + i) % len(COUNTING)] for i in range(8)]
                stream.write(json.dumps({"text": " ".join(words)}) + "\n")
        return path

    return write


class Counted(NamedTuple):
    """A run of `train synthesizer-text` that nothing happened to.

    Attributes:
        data: The texts.
        settings: Its flags; all tests train this network, which compiles slowly.
        folder: The run folder.
        printed: What it printed.
    """

    data: Path
    settings: tuple[str, ...]
    folder: Path
    printed: str


@pytest.fixture(scope="module")
def counted(run, tmp_path_factory, write_counting, compile_once):
    """Models that learned to count; see `write_counting`."""
    folder = tmp_path_factory.mktemp("counted")
    data = write_counting(folder / "counting.jsonl")
    settings = (
        *(
            "--level",
            "word",
            "--length",
            "12",
            "--dropout",
            "0",
            "--steps",
            "60",
            "--eval-every",
            "20",
            "--seeds",
            "2",
        ),
        *("--attention", "fixed-random", "mixture", "--width", "16", "--heads", "2"),
        *("--batch-size", "16", "--report-every", "10", "--save-every", "15"),
        *("--optimizer.learning-rate", "1e-2", "--no-tensorboard"),
    )
    flags = ("--data", data, "--run", folder / "run", *settings)
    status, out, err = run("train", "synthesizer-text", *flags)
    assert (status, err) == (0, "")
    return Counted(data, settings, folder / "run", out)


@pytest.fixture(scope="session")
def run_files():
    """What a complete run folder holds."""
    return {
        "config.json",
        "curves.png",
        "metrics.jsonl",
        "params.safetensors",
        "predictions.jsonl",
        "results.json",
        "schema.json",
        "tensorboard",
    }


@pytest.fixture(scope="session")
def stop():
    """Let a signal, or an error, come in a fit; see `stop_fit`."""
    return stop_fit


def stop_fit(monkeypatch, *, fit=1, step=0, how=signal.SIGTERM):
    """Let a signal, or an error, come at a step of the n-th fit, or before it begins.

    Returns:
        A list that holds the number of fits begun.
    """
    real, begun = _session.fit, [0]

    def stopped(*arguments, report, **options):
        begun[0] += 1
        ours = begun[0] == fit

        def report_and_stop(progress):
            report(progress)
            if ours and step and progress.step >= step and not progress.message:
                happen()

        def happen():
            if isinstance(how, signal.Signals):
                signal.raise_signal(how)
            else:
                raise how

        if ours and not step:
            happen()
        return real(*arguments, report=report_and_stop, **options)

    monkeypatch.setattr(_session, "fit", stopped)
    return begun
