"""A profiler trace of the steps that were asked for, and of no others."""

import gzip
import json
import os

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.training.tasks import RECORDS, least_squares
from zlpr_jax._errors import InputError
from zlpr_jax.training import FitConfig, Profile, fit


def traced(folder):
    """The numbers of the steps in the one trace of a folder."""
    (path,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    steps = [event for event in events if event.get("name") == "train"]
    return [int(event["args"]["step_num"]) for event in steps]


def train(trace, steps, first=0):
    step = jax.jit(lambda x: x @ x)
    x = jnp.eye(8)
    for number in range(first, steps):
        trace.step(number)
        x = step(x)


def test_fit_traces_its_steps(tmp_path):
    profile = Profile(tmp_path / "profile", 3, start=4)
    fit(
        least_squares(),
        optax.sgd(0.1),
        RECORDS,
        FitConfig(steps=12, batch_size=8),
        profile=profile,
    )
    assert traced(tmp_path) == [5, 6, 7]


def test_a_resumed_training_compiles_again(tmp_path):
    """The steps before the trace are counted from the first of this process."""
    with Profile(tmp_path, 2, start=3).session() as trace:
        train(trace, first=100, steps=120)
    assert traced(tmp_path) == [104, 105]


def test_training_may_end_within_the_trace(tmp_path):
    def failing():
        with Profile(tmp_path, 10, start=2).session() as trace:
            train(trace, steps=5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert traced(tmp_path) == [3, 4, 5]
    # it was stopped: there can be another
    with Profile(tmp_path / "next", 1, start=0).session() as trace:
        train(trace, steps=2)
    assert traced(tmp_path / "next") == [1]


def test_training_that_ends_before_the_trace_says_so(tmp_path):
    with (
        pytest.warns(UserWarning, match="ended within 10 steps"),
        Profile(tmp_path, 3).session() as trace,
    ):
        train(trace, steps=10)
    assert not os.listdir(tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    for folder in tmp_path / "file", tmp_path / "file" / "profile":
        with (
            pytest.raises(InputError, match=r"file.*: the profile cannot be written"),
            Profile(folder, 3).session(),
        ):
            pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be >= 1"),
        ({"steps": 1, "start": -1}, "start must be"),
    ],
)
def test_bad_settings(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        Profile(tmp_path, **settings)
