"""Writing encoders: whole or not at all, and over none."""

import dataclasses
from pathlib import Path

import chex
import pytest

from tests.models.berts import GOLDEN
from zlpr_jax._errors import InputError
from zlpr_jax.models.pretrained import from_pretrained, save_pretrained


@pytest.fixture(scope="module")
def bert():
    return from_pretrained(GOLDEN / "bert")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "encoder"


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "a-1-of-2.safetensors", "x.ckpt.index"]
)
def test_an_encoder_is_not_overwritten(bert, folder, name):
    folder.mkdir()
    (folder / name).write_text("as it was")
    with pytest.raises(InputError, match="holds an encoder: name another folder"):
        save_pretrained(folder, bert.config, bert.params)
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_text() == "as it was"


def test_beside_other_files(bert, folder):
    folder.mkdir()
    (folder / "vocab.txt").write_text("[PAD]")
    save_pretrained(str(folder), bert.config, bert.params)
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("written", [0, 1])
def test_nothing_is_left_half_written(bert, folder, monkeypatch, written):
    """The disk is full: at the first file, or at the second."""
    write_bytes, names = Path.write_bytes, []

    def full(path, content):
        names.append(path.name)
        if len(names) > written:
            write_bytes(path, content[:100])
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot be written: .*No space left"):
        save_pretrained(folder, bert.config, bert.params)
    assert list(folder.iterdir()) == []
    monkeypatch.undo()
    save_pretrained(folder, bert.config, bert.params)
    chex.assert_trees_all_equal(from_pretrained(folder).params, bert.params)


def test_a_folder_that_cannot_be(bert, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot be written: "):
        save_pretrained(tmp_path / "file", bert.config, bert.params)


def test_parameters_of_another_encoder(bert, folder):
    config = dataclasses.replace(bert.config, vocabulary=21)
    words = r"masked_head/bias must have the shape \(21,\), got \(20,\)"
    with pytest.raises(ValueError, match=words):
        save_pretrained(folder, config, bert.params)
    config = dataclasses.replace(bert.config, masked_head=False)
    with pytest.raises(ValueError, match="masked_head/bias must have the shape None"):
        save_pretrained(folder, config, bert.params)
    config = dataclasses.replace(bert.config, pooler=True)
    with pytest.raises(ValueError, match=r"pooler/bias must have .*, got None"):
        save_pretrained(folder, config, bert.params)
    assert not folder.exists()
