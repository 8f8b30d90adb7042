"""Messages on text and tokens where the types in signatures would say it first."""

import numpy as np
import pytest

from zlpr_jax._errors import InputError
from zlpr_jax.data.tokens import TokenRows, pack_documents
from zlpr_jax.data.vocabulary import Vocabulary


@pytest.mark.parametrize("level", ["letter", None, ["word"]])
def test_level(level):
    with pytest.raises(ValueError, match="level must be character or word, got"):
        Vocabulary.build(["a"], level)
    value = {"level": level, "tokens": ["<end>", "<unk>"]}
    with pytest.raises(InputError, match=r"damaged .level must be character or word"):
        Vocabulary.from_json(value)


def test_documents_of_no_integers():
    with pytest.raises(ValueError, match=r"document 0 must be .* got float32 \[2\]"):
        pack_documents([np.float32([1, 2])], 4, end=0)


def test_rows_of_another_dtype():
    tokens = np.zeros((2, 3), np.int32)
    with pytest.raises(
        ValueError, match=r"targets must be int32 .* got int64 \[2, 3\]"
    ):
        TokenRows(tokens=tokens, targets=tokens.astype(np.int64))
