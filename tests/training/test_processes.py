"""Several processes: how they find each other, and that they train as one does.

Run as a program, this file is one of them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from zlpr_jax._errors import InputError
from zlpr_jax.data.multilabel import Record
from zlpr_jax.models.mlp import MLPConfig
from zlpr_jax.tasks import multilabel
from zlpr_jax.training import CheckpointConfig, FitConfig, evaluate, fit, make_mesh
from zlpr_jax.training import _processes as processes

STEPS, SAVE_EVERY, KILLED, ASKED = 50, 10, 34, 40


def records():
    rng = np.random.default_rng(0)
    return [
        Record(
            id=str(i),
            features=rng.normal(size=128).astype(np.float32),
            labels=np.flatnonzero(rng.random(24) < 0.2).astype(np.int32),
        )
        for i in range(90)
    ]


def train(mesh, report, checkpoints=None):
    """Fit; return the scores of all records, of which the last batch is not full."""
    task = multilabel.make(
        MLPConfig(features=128, labels=24, hidden=(256,), dropout=0.1)
    )
    result = fit(
        task,
        optax.sgd(0.05, momentum=0.9),
        records(),
        FitConfig(steps=STEPS, batch_size=32, report_every=1),
        mesh=mesh,
        checkpoints=checkpoints,
        report=report,
    )
    if result.interrupted:
        return {"interrupted": result.step}
    scores, _ = evaluate(task, result.params, result.state, records(), 32, mesh=mesh)
    return scores


def worker(folder, at, number):
    """One of two processes; write what it learns, line by line.

    The second one gets the signal `number` after step `at`.
    """
    processes.HEARTBEAT = 10  # to wait less
    processes.initialize_processes()
    index = jax.process_index()

    def write(line):
        with (folder / f"{index}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def report(progress):
        if progress.metrics:
            write({"step": progress.step, "loss": progress.metrics["loss"]})
        if progress.step == at and index == 1:
            os.kill(os.getpid(), number)

    write(
        {
            "main": processes.is_main(),
            "any": [processes.any_process(index == 1), processes.any_process(False)],
            "same": processes.same_everywhere(f"run {index} é"),
        }
    )
    saves = CheckpointConfig(folder=folder / "checkpoints", every=SAVE_EVERY)
    scores = train(make_mesh(data=4, fsdp=2), report, saves)
    write({"scores": scores})


def launch(folder, at=None, number=signal.SIGKILL):
    """Run two processes with four devices each; return their status and lines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    running = []
    for index in range(2):
        environ = {
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            "JAX_PLATFORMS": "cpu",
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(index),
        }
        what = json.dumps([at, number])
        command = [sys.executable, __file__, str(folder), what]
        with (folder / f"{index}.log").open("a") as log:
            running.append(
                subprocess.Popen(command, env=environ, stdout=log, stderr=log)
            )
    try:
        # A minute beyond which the other one must not live, and one to start.
        status = [process.wait(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    lines = []
    for index in range(2):
        path = folder / f"{index}.jsonl"
        lines.append([json.loads(line) for line in path.read_text().splitlines()])
        path.unlink()
    return status, lines


def losses_of(lines):
    return {line["step"]: line["loss"] for line in lines if "step" in line}


@pytest.fixture(scope="module")
def one_process():
    losses = {}
    scores = train(
        None, lambda progress: losses.update({progress.step: progress.metrics["loss"]})
    )
    return losses, scores


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A run whose process 1 was killed."""
    folder = tmp_path_factory.mktemp("processes")
    return folder, *launch(folder, KILLED)


@pytest.mark.slow
def test_two_processes_train_as_one(broken, one_process):
    _, _, lines = broken
    expected, _ = one_process
    for index, own in enumerate(lines):
        start = {"main": index == 0, "any": [True, False], "same": "run 0 é"}
        assert own[0] == start
        losses = losses_of(own)
        assert list(losses) == list(range(1, len(losses) + 1))
        assert len(losses) >= KILLED - 5
        for step, loss in losses.items():
            assert loss == pytest.approx(expected[step], rel=1e-5), step


@pytest.mark.slow
def test_when_one_dies_the_other_ends(broken):
    folder, status, _ = broken
    log = (folder / "0.log").read_text()
    assert status[1] == -signal.SIGKILL
    assert status[0] != 0, log
    assert processes.HEARTBEAT <= 30, "seconds; a minute is the promise"


@pytest.mark.slow
def test_restarts_go_on_to_the_same_end(broken, one_process):
    """One is stopped by SIGTERM to one of the processes: both save the same step."""
    folder, _, _ = broken
    expected, scores = one_process
    status, lines = launch(folder, ASKED, signal.SIGTERM)
    assert status == [0, 0], (folder / "0.log").read_text()
    stopped = lines[0][-1]["scores"]["interrupted"]
    assert stopped in range(ASKED, ASKED + 6)
    for own in lines:
        assert own[-1]["scores"] == {"interrupted": stopped}
        saved = next(iter(losses_of(own))) - 1
        assert saved in range(SAVE_EVERY, KILLED, SAVE_EVERY), "from a checkpoint"
    status, lines = launch(folder)
    assert status == [0, 0], (folder / "0.log").read_text()
    for own in lines:
        losses = losses_of(own)
        assert list(losses) == list(range(stopped + 1, STEPS + 1))
        for step, loss in losses.items():
            assert loss == pytest.approx(expected[step], rel=1e-5), step
        assert own[-1]["scores"] == pytest.approx(scores, rel=1e-5)


ALL = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}


def test_processes_of_the_environment():
    assert processes.explicit_processes({}) is None
    assert processes.explicit_processes(ALL) == ("10.0.0.1:8476", 4, 3)
    assert processes.explicit_processes(dict.fromkeys(ALL, "")) is None
    assert processes.explicit_processes({"JAX_NUM_PROCESSES": "1"}) == (None, 1, 0)
    # jax itself reads the address; the rest may come from the cluster
    address = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476"}
    assert processes.explicit_processes(address | SLURM) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_NUM_PROCESSES is set, but not JAX_PROCESS_ID"),
        (
            {"JAX_COORDINATOR_ADDRESS": "", "JAX_NUM_PROCESSES": ""},
            "JAX_PROCESS_ID is set, but not JAX_COORDINATOR_ADDRESS and JAX_NUM",
        ),
        ({"JAX_PROCESS_ID": "4"}, "must be below JAX_NUM_PROCESSES, which is 4"),
        ({"JAX_PROCESS_ID": "-1"}, "integer >= 0, got '-1'"),
        ({"JAX_NUM_PROCESSES": "two"}, "integer >= 0, got 'two'"),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "must be host:port"),
    ],
)
def test_half_set_environment(changes, reason):
    with pytest.raises(InputError, match=reason):
        processes.explicit_processes(ALL | changes)


SLURM = {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "8"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        (SLURM, True),
        # a shell in a job of eight tasks is a step of one
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, False),
        # so is the script of a job, outside of any step
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1", "JAX_PLATFORMS": "cpu"}, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_PROCESS_ADDRESSES": "local"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t0", "MEGASCALE_NUM_SLICES": "2"}, True),
        ({"COLAB_RELEASE_TAG": "release"}, False),
    ],
)
def test_clusters(environ, expected):
    # as jax sets it where there is no TPU
    assert processes.is_cluster({"TPU_SKIP_MDS_QUERY": "1"} | environ) == expected


def test_one_process_does_nothing(monkeypatch):
    for name in ALL:
        monkeypatch.delenv(name, raising=False)
    processes.initialize_processes()
    assert not jax.distributed.is_initialized()
    monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
    processes.initialize_processes()
    assert not jax.distributed.is_initialized()
    assert processes.is_main()
    assert [processes.any_process(flag) for flag in (True, False)] == [True, False]
    assert processes.same_everywhere("é") == "é"


def test_processes_that_jax_does_not_find(monkeypatch):
    """Open MPI 5, which jax cannot read."""

    def initialize(*arguments, **options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    with pytest.raises(InputError, match=r"coordinator_address.*JAX_NUM_PROCESSES"):
        processes.initialize_processes()


if __name__ == "__main__":
    worker(Path(sys.argv[1]), *json.loads(sys.argv[2]))
