"""Run folders and parameters on disk."""

import errno
import subprocess
import sys

import chex
import jax.numpy as jnp
import pytest

from zlpr_jax._errors import InputError
from zlpr_jax.training import RunFolder, default_run, load_tree, read_json, save_tree
from zlpr_jax.training._run import is_complete

FILES = {"config.json": {"name": "é"}, "schema.json": {}}

TREE = {
    "layers": {
        0: {"kernel": jnp.arange(6.0).reshape(2, 3)},
        1: jnp.ones((2,), jnp.int32),
    }
}


def test_tree_comes_back_bit_for_bit(tmp_path):
    save_tree(tmp_path / "t.safetensors", TREE)
    like = {"layers": {0: {"kernel": jnp.zeros((2, 3))}, 1: jnp.zeros((2,), jnp.int32)}}
    loaded = load_tree(tmp_path / "t.safetensors", like)
    chex.assert_trees_all_equal(loaded, TREE)
    chex.assert_trees_all_equal_dtypes(loaded, TREE)


@pytest.mark.parametrize(
    ("like", "reason"),
    [
        ({"layers": {0: {"kernel": jnp.zeros((2, 3))}}}, "layers/1"),
        (
            {"layers": {0: {"kernel": jnp.zeros((3, 2))}, 1: jnp.zeros(2, jnp.int32)}},
            "layers/0/kernel is float32",
        ),
        (
            {"layers": {0: {"kernel": jnp.zeros((2, 3))}, 1: jnp.zeros(2)}},
            "layers/1 is int32",
        ),
    ],
)
def test_another_tree_is_an_error(tmp_path, like, reason):
    save_tree(tmp_path / "t.safetensors", TREE)
    with pytest.raises(InputError, match=reason):
        load_tree(tmp_path / "t.safetensors", like)


def test_damaged_file_is_an_error(tmp_path):
    path = tmp_path / "t.safetensors"
    # a header that claims to be 2^60 bytes long
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_tree(path, TREE)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_tree(tmp_path / "absent", TREE)


def names(path):
    return sorted(path.name for path in path.iterdir())


def test_folder_is_there_from_the_start(tmp_path):
    with RunFolder.make(tmp_path / "a" / "run", FILES) as folder:
        assert names(tmp_path / "a") == ["run"]
        assert names(folder.path) == ["config.json", "schema.json"]
        assert not is_complete(folder.path)
        folder.write_tree("params.safetensors", TREE)
        with folder.writing("lines") as path:
            path.write_text("1\n2\n")
            assert not (folder.path / "lines").exists(), "it appears whole"
        folder.write_json("results.json", {"a": [1]})
    assert is_complete(folder.path)
    assert read_json(folder.path / "config.json") == FILES["config.json"]
    assert read_json(folder.path / "results.json") == {"a": [1]}
    assert (folder.path / "lines").read_text() == "1\n2\n"
    expected = ["config.json", "lines", "params.safetensors", "results.json"]
    assert names(folder.path) == [*expected, "schema.json"]
    assert folder.path.stat().st_mode & 0o777 == 0o755


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path):
    def fail(error):
        with folder.writing("a") as path:
            path.write_text("half")
            raise error

    with RunFolder.make(tmp_path / "run", FILES) as folder:
        folder.write_json("a", 1)
        with pytest.raises(InputError, match="a: cannot be written: No space"):
            fail(OSError("No space left on device"))
        with pytest.raises(KeyboardInterrupt):
            fail(KeyboardInterrupt())
        assert read_json(folder.path / "a") == 1
    assert names(folder.path) == ["a", "config.json", "schema.json"]


@pytest.mark.parametrize("reached", [False, True])
def test_error_leaves_a_folder_only_with_a_checkpoint(tmp_path, reached):
    def interrupted(folder):
        with folder:
            folder.write_json("metrics", [])
            if reached:
                step = folder.path / "checkpoints" / "zlpr-0" / "100"
                step.mkdir(parents=True)
                (step / "digests.json").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(RunFolder.make(tmp_path / "run", FILES))
    assert names(tmp_path) == ["run"] * reached


def test_error_leaves_a_folder_that_was_opened(tmp_path):
    with RunFolder.make(tmp_path / "run", FILES):
        pass
    with pytest.raises(KeyboardInterrupt), RunFolder.open(tmp_path / "run"):
        raise KeyboardInterrupt
    assert names(tmp_path / "run") == ["config.json", "schema.json"]


def test_existing_folder_is_an_error(tmp_path):
    with pytest.raises(InputError, match="the run folder exists: name another"):
        RunFolder.make(tmp_path, FILES)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        RunFolder.make(tmp_path / "file" / "run", FILES)
    with RunFolder.make(tmp_path / "a b", FILES) as folder:
        pass
    with pytest.raises(
        InputError, match=r"not complete: go on with `zlpr-jax resume '"
    ):
        RunFolder.make(tmp_path / "a b", FILES)
    folder.write_json("results.json", {})
    with pytest.raises(InputError, match="the run folder exists: name another"):
        RunFolder.make(tmp_path / "a b", FILES)
    assert names(tmp_path) == ["a b", "file"]


def test_one_at_a_time(tmp_path):
    path = tmp_path / "run"
    with (
        RunFolder.make(path, FILES),
        pytest.raises(InputError, match="another process trains"),
    ):
        RunFolder.open(path)
    with RunFolder.open(path), pytest.raises(InputError, match="another process"):
        RunFolder.open(path)
    with RunFolder.open(path):
        pass


def test_lock_ends_with_a_kill(tmp_path):
    path = tmp_path / "run"
    with RunFolder.make(path, FILES):
        pass
    code = (
        "import fcntl, sys, time\n"
        "file = open(sys.argv[1], 'r+'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True); time.sleep(20)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path / "config.json"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(InputError, match="another process trains"):
            RunFolder.open(path)
        process.kill()
    with RunFolder.open(path):
        pass


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        RunFolder.open(tmp_path)
    with RunFolder.make(tmp_path / "run", FILES) as folder:
        folder.write_json("results.json", {})
    with pytest.raises(InputError, match="the run is complete"):
        RunFolder.open(tmp_path / "run")


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with RunFolder.make(tmp_path / "run", FILES) as folder:
        folder.write_json("results.json", {})


def test_default_run_is_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(default_run("yeast")) == "runs/yeast"
    (tmp_path / "runs" / "yeast").mkdir(parents=True)
    (tmp_path / "runs" / "yeast-2").mkdir()
    assert str(default_run("yeast")) == "runs/yeast-3"


@pytest.mark.parametrize("text", [None, "{"])
def test_read_json_of_a_bad_file(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="expected a run folder"):
        read_json(tmp_path / "config.json")
