"""Run tests/errors in a process without the shape checker.

There the library's own messages are what a wrong call shows, as it is for a user.
"""

import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parent / "errors").glob("test_*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_messages(path):
    options = ["-q", "-o", "addopts=--import-mode=importlib", "-o", "norecursedirs=.*"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", str(path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


def test_there_are_files():
    assert {path.stem for path in FILES} >= {"test_losses", "test_optim"}
