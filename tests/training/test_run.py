"""Run folders and parameters on disk."""

import json

import chex
import jax.numpy as jnp
import pytest

from zlpr_jax._errors import InputError
from zlpr_jax.training import RunFolder, default_run, load_tree, read_json, save_tree

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


def test_folder_appears_at_the_end(tmp_path):
    with RunFolder(tmp_path / "a" / "run") as folder:
        folder.write_json("config.json", {"name": "é"})
        folder.append_json("metrics.jsonl", {"step": 1})
        folder.append_json("metrics.jsonl", {"step": 2})
        folder.write_tree("params.safetensors", TREE)
        assert not folder.final.exists()
    assert read_json(folder.final / "config.json") == {"name": "é"}
    lines = (folder.final / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["run"]


def test_error_leaves_nothing(tmp_path):
    def interrupted():
        with RunFolder(tmp_path / "run") as folder:
            folder.write_json("config.json", {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_existing_folder_is_an_error(tmp_path):
    with pytest.raises(InputError, match="the run folder exists"):
        RunFolder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        RunFolder(tmp_path / "file" / "run")


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
