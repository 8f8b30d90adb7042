"""What is saved comes back bit for bit, and what is damaged does not come back."""

import functools
import json
import logging
import random
import shutil
import signal
import subprocess
import sys
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from zlpr_jax._errors import InputError
from zlpr_jax.optim import Factoring, adafactor, adax
from zlpr_jax.training import _step_folders
from zlpr_jax.training._checkpoint import CheckpointConfig, Checkpoints
from zlpr_jax.training._digests import DIGESTS, Damaged, Unfinished, check_digests

FIT = lambda meta: None


def tree(seed=0):
    """Parameters, the state of two optimizers, and every odd container."""
    a, b = jax.random.split(jax.random.key(seed))
    params = {
        "w": jax.random.normal(a, (8, 4)),
        "inner": {"b": jax.random.normal(b, (4,), jnp.bfloat16)},
    }
    tx = optax.chain(
        optax.masked(adax(), {"w": True, "inner": {"b": False}}),
        adafactor(factoring=Factoring(min_dim=2), momentum=0.9),
    )
    return {
        "params": params,
        "opt": tx.init(params),
        "layers": {0: jnp.arange(3), 10: [jnp.zeros((0, 2)), None, ()]},
        "step": jnp.int32(seed),
        "flag": jnp.array([True, False]),
        "key": jax.random.key_data(a),
        "empty": optax.EmptyState(),
    }


def shapes(like, sharding=None):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
    )


def assert_same(got, expected):
    chex.assert_trees_all_equal_structs(got, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


class Folder:
    """A folder of checkpoints and the warnings that it gave rise to."""

    def __init__(self, path, **options):
        self.path, self.options, self.warnings = path, options, []

    def open(self, direction="max"):
        config = CheckpointConfig(folder=self.path, **self.options)
        return Checkpoints(config, direction=direction, warn=self.warnings.append)

    def save(self, *steps, scores=None, direction="max"):
        with self.open(direction) as checkpoints:
            for step in steps:
                score = scores and scores.get(step)
                checkpoints.save(step, small(step), {"at": step}, score=score)

    def restore(self, like=None, check=FIT):
        with self.open() as checkpoints:
            return checkpoints.restore(shapes(small()) if like is None else like, check)

    def names(self):
        return sorted(path.name for path in self.path.iterdir())


def small(step=0):
    return {"w": jnp.full((3, 4), step, jnp.float32), "n": jnp.int32(step)}


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "checkpoints")


def test_everything_comes_back_bit_for_bit(folder, capfd):
    saved, meta = tree(3), {"config": {"lr": 0.1}, "iterator": [1, None, "x"]}
    checked = []
    with folder.open() as checkpoints:
        assert checkpoints.restore(shapes(saved), FIT) is None
        assert checkpoints.wait()
        checkpoints.save(7, saved, meta, score=None)
        assert checkpoints.wait()
    restored = folder.restore(shapes(saved), checked.append)
    assert (restored.step, restored.meta, checked) == (7, meta, [meta])
    assert_same(restored.tree, saved)
    assert all(len(x.devices()) == 1 for x in jax.tree.leaves(restored.tree))
    assert folder.names() == ["7"]
    check_digests(folder.path / "7")
    assert folder.warnings == []
    assert capfd.readouterr() == ("", "")


def test_another_mesh(folder):
    saved = {"w": jnp.arange(64.0).reshape(8, 8), "b": jnp.arange(8, dtype=jnp.int8)}
    devices = np.array(jax.devices())
    meshes = [Mesh(devices[:n].reshape(-1, 2 - n % 2), ("x", "y")) for n in (8, 2, 1)]
    current, before = saved, None
    for step, mesh in enumerate(meshes):
        if step:
            like = shapes(saved, NamedSharding(mesh, P("x")))
            like["w"] = shapes(saved["w"], NamedSharding(mesh, P("y", "x")))
            current = folder.restore(like).tree
            assert jax.tree.map(lambda x: x.sharding, current) == jax.tree.map(
                lambda x: x.sharding, like
            )
        else:
            current = jax.device_put(saved, NamedSharding(mesh, P("x")))
        assert len(current["w"].devices()) == (8, 2, 1)[step]
        assert_same(current, saved)
        assert before is None or len(current["w"].devices()) < before
        before = len(current["w"].devices())
        with folder.open() as checkpoints:
            checkpoints.save(step, current, {}, score=None)


def test_what_is_saved_may_be_donated_at_once(folder):
    @functools.partial(jax.jit, donate_argnums=0)
    def train(arrays):
        return jax.tree.map(lambda x: x + 1, arrays)

    arrays = {str(i): jnp.zeros((300, 300)) for i in range(10)}
    with folder.open() as checkpoints:
        for step in range(1, 4):
            arrays = train(arrays)
            checkpoints.save(step, arrays, {}, score=None)
        arrays = train(arrays)
        jax.block_until_ready(arrays)
    restored = folder.restore(shapes(arrays)).tree
    assert all((np.asarray(leaf) == 3).all() for leaf in restored.values())


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_every_damage_is_named(tmp_path):
    folder = Folder(tmp_path / "checkpoints")
    with folder.open() as checkpoints:
        checkpoints.save(1, tree(), {}, score=0.5)
    step = folder.path / "1"
    files = {path: path.read_bytes() for path in step.rglob("*") if path.is_file()}
    assert len(files) > 10
    rng = random.Random(5)
    damages = [
        (path, how)
        for path in files
        for how in (lambda p: p.unlink(), halve, lambda p: flip(p, 3))
    ]
    bits = [(path, bit) for path in files for bit in range(8 * len(files[path]))]
    for path, bit in rng.sample(bits, 100):
        damages.append((path, lambda p, bit=bit: flip(p, bit)))
    for path, damage in damages:
        damage(path)
        name = path.relative_to(step).as_posix()
        with pytest.raises((Damaged, Unfinished)) as error:
            check_digests(step)
        if name != DIGESTS or path.exists():
            assert str(error.value).startswith(f"{name} ")
        path.write_bytes(files[path])
    check_digests(step)


@pytest.mark.parametrize(
    ("damage", "how"),
    [
        (lambda path: path.unlink(), "is missing"),
        (halve, "is shorter than when it was written"),
        (lambda path: flip(path, 100), "differs from what was written"),
    ],
)
def test_a_damaged_step_is_skipped_with_a_warning(folder, damage, how):
    folder.save(100, 200)
    files = (folder.path / "200").glob("ocdbt.process_0/d/*")
    largest = max(files, key=lambda path: path.stat().st_size)
    damage(largest)
    restored = folder.restore()
    assert restored.step == 100
    assert_same(restored.tree, small(100))
    (warning,) = folder.warnings
    assert warning.startswith(f"checkpoint step 200: ocdbt.process_0/d/{largest.name} ")
    assert how in warning
    assert "using step 100 (the damaged one is kept as damaged-200)" in warning
    assert folder.names() == ["100", "damaged-200"]
    with folder.open() as checkpoints:  # and that step can be saved again
        assert checkpoints.restore(shapes(small()), FIT).step == 100
        checkpoints.save(200, small(7), {}, score=None)
    assert_same(folder.restore().tree, small(7))
    assert folder.names() == ["100", "200", "damaged-200"]
    assert len(folder.warnings) == 1


@pytest.mark.parametrize("name", [DIGESTS, "meta.json"])
def test_damage_to_our_own_files_is_named(folder, name):
    folder.save(100, 200)
    flip(folder.path / "200" / name, 9)
    assert folder.restore().step == 100
    assert folder.warnings[0].startswith(f"checkpoint step 200: {name} differs")


def test_what_orbax_cannot_read_is_skipped_too(folder, monkeypatch):
    folder.save(1, 2)
    with folder.open() as checkpoints:
        read = checkpoints._orbax.restore

        def restore(path, **options):
            if path.name == "2":
                raise ValueError("no such chunk\nand a trace")
            return read(path, **options)

        monkeypatch.setattr(checkpoints._orbax, "restore", restore)
        assert checkpoints.restore(shapes(small()), FIT).step == 1
    (warning,) = folder.warnings
    assert "step 2: Orbax cannot read it: no such chunk; using step 1" in warning
    assert folder.names() == ["1", "damaged-2"]


def test_being_out_of_memory_is_no_damage(folder, monkeypatch):
    folder.save(1)

    def restore(path, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")

    with folder.open() as checkpoints:
        monkeypatch.setattr(checkpoints._orbax, "restore", restore)
        with pytest.raises(jax.errors.JaxRuntimeError):
            checkpoints.restore(shapes(small()), FIT)
    assert (folder.names(), folder.warnings) == (["1"], [])


def test_if_all_are_damaged_nothing_is_touched(folder):
    folder.save(1, 2)
    for step in ("1", "2"):
        flip(folder.path / step / "_METADATA", 50)
    for _ in range(2):  # the second run must not begin anew either
        with pytest.raises(InputError, match="no checkpoint can be used") as error:
            folder.restore()
        for part in ("step 2: _METADATA differs", "step 1: _METADATA", "start anew"):
            assert part in str(error.value)
        assert "\n" not in str(error.value)
    assert folder.names() == ["1", "2"]


def test_unfinished_steps_and_leftovers_are_removed(folder):
    folder.save(1, 2)
    (folder.path / "2" / DIGESTS).unlink()  # killed between commit and digests
    shutil.copytree(folder.path / "1", folder.path / "3.orbax-checkpoint-tmp")
    shutil.copytree(folder.path / "1", folder.path / "removed-0")
    (folder.path / "notes.txt").write_text("mine")
    assert folder.restore().step == 1
    assert folder.names() == ["1", "notes.txt"]
    (warning,) = folder.warnings
    assert "step 2 was cut off while it was written (it has no digests.json)" in warning


def test_a_folder_of_something_else_is_left_alone(folder):
    (folder.path / "5").mkdir(parents=True)
    (folder.path / "5" / "mine").write_text("precious")
    with pytest.raises(InputError, match="5: not a checkpoint of this library"):
        folder.open()
    assert (folder.path / "5" / "mine").read_text() == "precious"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be kept there.*name another folder"):
        Folder(tmp_path / "file" / "checkpoints").open()


@pytest.mark.parametrize(("direction", "best"), [("max", "30"), ("min", "20")])
def test_keep_last_and_keep_best_across_a_restart(folder, direction, best):
    scores = {10: 0.5, 20: 0.1, 30: 0.9, 40: 0.6}
    folder.save(10, 20, 30, 40, 50, scores=scores, direction=direction)
    assert folder.names() == sorted({best, "40", "50"})
    folder.save(60, 70, 80, scores={70: 0.5, 80: np.inf}, direction=direction)
    assert folder.names() == sorted({best, "70", "80"})
    # a better one, on both scales, takes its place
    better = {"max": 2.0, "min": -2.0}[direction]
    folder.save(90, 91, 92, scores={90: better}, direction=direction)
    assert folder.names() == ["90", "91", "92"]


def test_no_best_is_kept_without_scores(folder):
    folder.options.update(keep_last=1, keep_best=2)
    folder.save(1, 2, 3)
    assert folder.names() == ["3"]
    folder.save(4, 5, 6, 7, scores={4: 1.0, 5: 1.0, 6: 1.0})
    assert folder.names() == ["4", "5", "7"]  # of equals, the first


def test_an_old_step_goes_after_the_new_one_has_its_digests(folder, monkeypatch):
    folder.options.update(keep_last=1, keep_best=0)
    folder.save(1)
    seen, write = [], _step_folders.write_digests

    def write_digests(path, *, hashed):
        seen.append((threading.current_thread(), folder.names()))
        write(path, hashed=hashed)
        seen.append(folder.names())

    monkeypatch.setattr(_step_folders, "write_digests", write_digests)
    folder.save(2)
    thread, names = seen[0]
    assert thread is not threading.main_thread()
    assert names == seen[1] == ["1", "2"]
    assert folder.names() == ["2"]

    def fail(path, *, hashed):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_step_folders, "write_digests", fail)
    with folder.open() as checkpoints:
        assert checkpoints.restore(shapes(small()), FIT).step == 2
        checkpoints.save(3, small(3), {}, score=None)
        assert not checkpoints.wait()
        assert not checkpoints.wait()
        assert folder.names() == ["2"]
        monkeypatch.setattr(_step_folders, "write_digests", write)
        checkpoints.save(4, small(4), {}, score=None)
        assert checkpoints.wait()
    assert folder.names() == ["4"]
    assert folder.warnings == [
        "checkpoint step 3 could not be written: [Errno 28] No space left on device: "
        "the last good one is step 2"
    ]


def test_ctrl_c_while_waiting_does_not_end_the_save(folder, monkeypatch):
    write = _step_folders.write_digests
    waiting, release = threading.Event(), threading.Event()

    def write_digests(path, *, hashed):
        waiting.wait()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        release.wait()
        write(path, hashed=hashed)

    monkeypatch.setattr(_step_folders, "write_digests", write_digests)
    with folder.open() as checkpoints:

        def wait():
            waiting.set()
            checkpoints.wait()

        checkpoints.save(1, small(1), {}, score=None)
        with pytest.raises(KeyboardInterrupt):
            wait()
        assert not (folder.path / "1" / DIGESTS).exists()
        release.set()
        assert checkpoints.wait()
        assert (folder.path / "1" / DIGESTS).exists()


def test_the_same_step_is_saved_once(folder):
    folder.save(5)
    with folder.open() as checkpoints:
        restored = checkpoints.restore(shapes(small()), FIT)
        checkpoints.save(5, restored.tree, {"at": "again"}, score=None)
        assert checkpoints.wait()
    assert folder.restore().meta == {"at": 5}


def test_other_arrays_are_refused_by_name(folder):
    folder.save(1)
    like = shapes({"w": jnp.zeros((3, 5)), "n": jnp.int32(0), "extra": jnp.zeros(2)})
    with pytest.raises(InputError) as error:
        folder.restore(like)
    for part in (
        "checkpoint step 1 holds other arrays: ",
        "extra (nothing there, float32[2] here)",
        "w (float32[3,4] there, float32[3,5] here)",
    ):
        assert part in str(error.value)
    assert "n (" not in str(error.value)
    with pytest.raises(InputError, match=r"n \(int32\[\] there, float32\[\] here\)"):
        folder.restore(shapes({"w": jnp.zeros((3, 4)), "n": jnp.float32(0)}))
    many = shapes({str(i): jnp.zeros(1) for i in range(20)})
    with pytest.raises(InputError, match=r" 12 \(.* and 17 more: use the config"):
        folder.restore(many)
    assert folder.names() == ["1"]


def test_a_refusal_of_the_caller_passes_through(folder):
    folder.save(1, 2)

    def check(meta):
        raise InputError(f"seed {meta['at']}")

    with pytest.raises(InputError, match="seed 2"):
        folder.restore(check=check)
    assert (folder.names(), folder.warnings) == (["1", "2"], [])


def test_an_older_step_is_not_written_over(folder):
    folder.save(1, 2)
    with folder.open() as checkpoints:
        checkpoints.restore(shapes(small()), FIT)
        with pytest.raises(ValueError, match="already exists"):
            checkpoints.save(1, small(9), {}, score=None)
    assert_same(folder.restore().tree, small(2))
    check_digests(folder.path / "1")


def test_paths_must_differ(folder):
    arrays = {"a": {"b": jnp.zeros(1)}, "a/b": jnp.zeros(1)}
    with folder.open() as checkpoints, pytest.raises(ValueError, match="same path"):
        checkpoints.save(1, arrays, {}, score=None)


def test_without_verification_sizes_count(folder):
    folder.options.update(verify=False)
    like = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(200, 200)))}
    with folder.open() as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, like, {}, score=None)
    entries = json.loads((folder.path / "2" / DIGESTS).read_text())["files"]
    large = [name for name, (_, digest) in entries.items() if digest is None]
    assert large
    halve(folder.path / "2" / large[0])
    assert folder.restore(shapes(like)).step == 1
    assert f"{large[0]} is shorter" in folder.warnings[0]


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"keep_last": 0}, {"keep_best": -1}], ids=str
)
def test_settings_out_of_range(folder, options):
    (name,) = options
    with pytest.raises(InputError, match=f"{name} must be >= "):
        CheckpointConfig(folder=folder.path, **options)


def test_logging_of_others_is_left_as_it_was(folder, caplog):
    before = list(logging.getLogger("absl").filters)
    with folder.open():
        logging.getLogger("absl").warning("mine")
    assert logging.getLogger("absl").filters == before
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_folder_that_goes_away_is_survived(folder):
    before = {thread for thread in threading.enumerate() if not thread.daemon}
    away = folder.path.with_name("away")
    with folder.open() as checkpoints:
        checkpoints.save(1, small(1), {}, score=None)
        assert checkpoints.wait()
        folder.path.rename(away)
        folder.path.write_text("")
        checkpoints.save(2, small(2), {}, score=None)
        assert not checkpoints.wait()
        folder.path.unlink()
        away.rename(folder.path)
        checkpoints.save(3, small(3), {}, score=None)
        assert checkpoints.wait()
    assert folder.names() == ["1", "3"]
    (warning,) = folder.warnings
    assert "step 2 could not be written: [Errno 20] Not a directory" in warning
    # no thread is left that the end of the process would wait for
    assert {thread for thread in threading.enumerate() if not thread.daemon} == before


FULL = """
import resource, signal, sys
from pathlib import Path
import jax, jax.numpy as jnp
from zlpr_jax.training._checkpoint import CheckpointConfig, Checkpoints

tree = {"w": jax.random.normal(jax.random.key(0), (300, 300)), "n": jnp.int32(1)}
config = CheckpointConfig(folder=Path(sys.argv[1]))
with Checkpoints(config, direction="max", warn=print) as checkpoints:
    checkpoints.save(100, tree, {}, score=None)
    print(checkpoints.wait())
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    checkpoints.save(200, tree, {}, score=None)
    print(checkpoints.wait(), sorted(path.name for path in config.folder.iterdir()))
    checkpoints.save(300, tree, {}, score=None)
    assert not checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    checkpoints.save(400, tree, {}, score=None)
    print(checkpoints.wait())
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    checkpoints.save(500, tree, {}, score=None)
"""


def test_a_full_disk_is_said_and_survived(folder):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL, str(folder.path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.returncode, run.stderr) == (0, "")
    first, failed, state, again, last, end = run.stdout.splitlines()
    assert (first, state, last) == ("True", "False ['100']", "True")
    for line, step, good in ((failed, 200, 100), (again, 300, 100), (end, 500, 400)):
        assert line.startswith(f"checkpoint step {step} could not be written: ")
        assert line.endswith(f": File too large: the last good one is step {good}")
    assert folder.names() == ["100", "400"]
    like = {"w": jnp.zeros((300, 300)), "n": jnp.int32(0)}
    restored = folder.restore(shapes(like))
    assert restored.step == 400
    assert_same(
        restored.tree,
        {"w": jax.random.normal(jax.random.key(0), (300, 300)), "n": jnp.int32(1)},
    )
    assert folder.warnings == []
