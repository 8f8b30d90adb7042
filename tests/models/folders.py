"""Folders of encoders that tests write, and how they are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.models.berts import GOLDEN
from zlpr_jax._errors import InputError
from zlpr_jax.data._tensors import TensorFile
from zlpr_jax.models.pretrained import from_pretrained

DATA = Path(__file__).parents[1] / "data" / "golden"
CONFIG = json.loads((GOLDEN / "bert" / "config.json").read_text())
TENSORS = safetensors.numpy.load_file(GOLDEN / "bert" / "model.safetensors")
BARE = safetensors.numpy.load_file(GOLDEN / "bert_bare" / "model.safetensors")
WORDS = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.1.attention.self.query.weight"


def write(folder, tensors=TENSORS, config=CONFIG, name="config.json"):
    """A folder as Hugging Face writes it."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(config))
    arrays = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    return folder


def renamed(change, tensors=TENSORS):
    return {change(name): value for name, value in tensors.items()}


def refused(folder, words, **options):
    """Before anything of it is read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorFile, "read", lambda *_: pytest.fail("it was read"))
        with pytest.raises(InputError, match=words) as caught:
            from_pretrained(folder, **options)
    assert str(folder) in str(caught.value)
    return str(caught.value)
