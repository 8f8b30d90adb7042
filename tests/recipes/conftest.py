"""The command line as a function."""

import contextlib
import io

import pytest

from zlpr_jax.cli import main


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
    }
