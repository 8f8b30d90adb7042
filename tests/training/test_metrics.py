"""Rows of metrics: written once, taken back after a restore, never torn."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from zlpr_jax._errors import InputError
from zlpr_jax.training import MetricsLog


def train(step, loss=1.5):
    return {"step": step, "train": {"loss": loss}}


def evaluated(step):
    return train(step) | {"validation": {"micro_f1": step / 100}}


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def events(path):
    """The events of a file, whose checksums are right."""
    data, found = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        parts = data[:8], data[12 : 12 + size]
        sums = data[8:12], data[12 + size : 16 + size]
        for part, checksum in zip(parts, sums, strict=True):
            assert masked_crc32c(part) == int.from_bytes(checksum, "little")
        found.append(event_pb2.Event.FromString(parts[1]))
        data = data[16 + size :]
    return found


def scalars(folder):
    """(step, tag, value) of every scalar in a folder, in TensorBoard's order."""
    return [
        (event.step, value.tag, value.simple_value)
        for path in sorted(folder.glob("*tfevents*"))
        for event in events(path)
        for value in event.summary.value
    ]


def test_rows_begin_with_their_labels(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsLog(path) as log:
        for seed in 0, 1:
            log.bind(loss="zlpr").bind(seed=seed).write(evaluated(50))
        log.write(train(3))
        assert log.bind(seed=1).rows() == [
            {"loss": "zlpr", "seed": 1, **evaluated(50)},
        ]
        assert len(log.rows()) == 3
    assert path.read_text().splitlines()[0] == (
        '{"loss": "zlpr", "seed": 0, "step": 50, '
        '"train": {"loss": 1.5}, "validation": {"micro_f1": 0.5}}'
    )


def test_a_row_is_on_the_disk_when_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write(train(25))
    assert read(path) == [train(25)]
    log.close()


def test_numbers_become_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    values = {
        "nan": float("nan"),
        "inf": np.float32("-inf"),
        "float": np.float32(0.5),
        "array": np.array(2),
        "list": [1, np.nan],
        "tuple": (np.int64(3), "id"),
        "bool": True,
    }
    with MetricsLog(path) as log:
        log.write({"step": np.int64(25), "test": values})
    expected = {
        "nan": None,
        "inf": None,
        "float": 0.5,
        "array": 2,
        "list": [1, None],
        "tuple": [3, "id"],
        "bool": True,
    }
    assert read(path) == [{"step": 25, "test": expected}]


@pytest.mark.parametrize("again", [False, True])
def test_a_row_that_is_there_is_not_repeated(tmp_path, again):
    path = tmp_path / "metrics.jsonl"
    rows = [train(25), evaluated(25), {"step": 25, "test": {"micro_f1": 0.5}}, train(9)]
    log = MetricsLog(path)
    for row in rows:
        log.bind(seed=0).write(row)
    before = path.read_bytes()
    log = MetricsLog(path) if again else log
    for row in rows:
        log.bind(seed=0).write(row)
    assert path.read_bytes() == before
    log.bind(seed=1).write(rows[0])
    log.bind(seed=0).write(train(26))
    assert len(read(path)) == len(rows) + 2


@pytest.mark.parametrize("again", [False, True])
def test_cut_takes_back_the_bound_rows_only(tmp_path, again):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in 25, 50, 75:
        for seed in 0, 1:
            log.bind(seed=seed).write(train(step))
    log.bind(seed=0).write({"step": 75, "skipped": {"records": ["a"]}})
    # the step of the best evaluation, written after all others
    log.bind(seed=0).write({"step": 50, "test": {"micro_f1": 0.5}})
    log = MetricsLog(path) if again else log
    log.bind(seed=0).cut(50)
    left = [(row["seed"], row["step"], "test" in row) for row in read(path)]
    assert left == [(0, 25, False), (1, 25, False), (0, 50, False)] + [
        (1, step, False) for step in (50, 75)
    ]
    # what was taken back can be written again
    log.bind(seed=0).write(train(75))
    assert read(path)[-1] == {"seed": 0, **train(75)}
    log.cut(0)
    assert path.read_bytes() == b""
    assert [name.name for name in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_cut_that_removes_nothing_leaves_the_file_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write(train(25))
    before = path.stat()
    log.cut(25)
    MetricsLog(path)
    assert path.stat() == before


@pytest.mark.parametrize(
    "torn", ['{"step": 50, "tr', '{"step": 50, "train": {}}', "\0"]
)
def test_a_torn_last_line_goes(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(train(25)) + "\n" + torn)
    with MetricsLog(path) as log:
        assert read(path) == [train(25)]
        log.write(train(50))
    assert read(path) == [train(25), train(50)]


@pytest.mark.parametrize(
    "bad", ["not JSON", "[1]", '{"loss": 2}', '{"step": "a"}', "", "[" * 100_000]
)
def test_a_line_that_is_no_row_is_named(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(train(25))}\n{bad}\n{json.dumps(train(50))}\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: expected a row"):
        MetricsLog(path)
    assert path.read_bytes() == before


def test_what_is_no_text_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 1"):
        MetricsLog(path)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="metrics cannot be written"):
        MetricsLog(tmp_path / "file" / "metrics.jsonl")
    with pytest.raises(InputError, match="metrics cannot be written"):
        MetricsLog(tmp_path)
    log = MetricsLog(tmp_path / "metrics.jsonl", tensorboard=tmp_path / "file")
    with pytest.raises(InputError, match="metrics cannot be written"):
        log.write(train(25))


def test_a_full_disk_is_an_error_and_the_rows_before_stay(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    written = []

    def fill():
        for step in range(1, 20):
            log.write(train(step))
            written.append(step)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(InputError, match="metrics cannot be written") as error:
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "large" in str(error.value)
    rows = MetricsLog(tmp_path / "metrics.jsonl").rows()
    assert [row["step"] for row in rows] == written
    assert written


def test_tensorboard_holds_the_same_and_what_was_measured(tmp_path):
    path, folder = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    with MetricsLog(path, tensorboard=folder) as log:
        bound = log.bind(loss="zlpr", seed=0, stage="search")
        bound.cut(0)
        bound.write(evaluated(50), measured={"examples_per_second": 900.0})
        bound.write(evaluated(50), measured={"examples_per_second": 800.0})
        bound.write({"step": 51, "skipped": {"loss": True, "records": ["a"]}})
        bound.write(train(75, float("inf")))
        bound.sync()
        found = scalars(folder / "zlpr-0-search")
        log.bind(loss="bce", seed=0, stage="search").write(train(25))
    assert found == [
        (50, "train/loss", 1.5),
        (50, "validation/micro_f1", 0.5),
        (50, "examples_per_second", 900),
        (75, "train/loss", float("inf")),
    ]
    assert scalars(folder / "bce-0-search") == [(25, "train/loss", 1.5)]
    assert "examples_per_second" not in path.read_text()


def test_tensorboard_hides_the_steps_that_are_taken_back(tmp_path):
    path, folder = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    with MetricsLog(path, tensorboard=folder) as log:
        log.cut(0)
        for step in 25, 50, 75:
            log.write(train(step))
    with MetricsLog(path, tensorboard=folder) as log:
        log.cut(50)
        log.write(train(75, loss=2.5))
    first, second = sorted(folder.glob("*tfevents*"))
    begun = [[e for e in events(path) if e.HasField("session_log")]
             for path in (first, second)]  # fmt: skip
    assert begun[0] == []
    ((start,),) = begun[1:]
    assert (start.step, start.session_log.status) == (51, event_pb2.SessionLog.START)
    assert events(second)[0].file_version == "brain.Event:2"
    assert [step for step, *_ in scalars(folder)] == [25, 50, 75, 75]


def test_a_process_that_does_not_write_touches_nothing(tmp_path):
    folder = tmp_path / "run"
    path = folder / "metrics.jsonl"
    with MetricsLog(path, tensorboard=folder, writing=False) as log:
        bound = log.bind(seed=0)
        bound.cut(0)
        bound.write(train(25))
        bound.sync()
        assert bound.rows() == []
    assert not folder.exists()


def test_sync_reaches_the_disk(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def spy(descriptor):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    with MetricsLog(tmp_path / "metrics.jsonl", tensorboard=tmp_path) as log:
        log.write(train(25))
        synced.clear()
        log.sync()
        assert synced[0] == "metrics.jsonl"
        assert "tfevents" in synced[1]


def test_tensorboard_is_imported_only_where_it_is_asked_for(tmp_path):
    code = f"""
import sys
from pathlib import Path
from zlpr_jax.training import MetricsLog
log = MetricsLog(Path({str(tmp_path / "metrics.jsonl")!r}))
log.write({{"step": 25, "train": {{"loss": 2.5}}}})
print([n for n in ("tensorboardX", "matplotlib", "tensorflow") if n in sys.modules])
folder = Path({str(tmp_path)!r})
log = MetricsLog(folder / "other.jsonl", tensorboard=folder)
log.write({{"step": 25, "train": {{"loss": 2.5}}}})
print([n for n in ("tensorboardX", "matplotlib", "tensorflow") if n in sys.modules])
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert run.stdout.split("\n") == ["[]", "['tensorboardX']", ""], run.stderr
