"""The library `tokenizers`, set up as BERT does it."""

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from zlpr_jax._errors import InputError
from zlpr_jax.data._wordpiece import LONGEST_WORD, PREFIX, UNKNOWN


@functools.cache
def import_tokenizers() -> ModuleType:
    """The library; imported late, since most of `zlpr_jax.data` does without it."""
    try:
        import tokenizers
    except ImportError:
        raise InputError(
            "WordPiece needs the package tokenizers, which is not installed: "
            'pip install "zlpr-jax[train]"'
        ) from None
    return tokenizers


def make_backend(
    ids: Mapping[str, int],
    *,
    lowercase: bool,
    strip_accents: bool | None,
    isolate_chinese: bool,
) -> Any:
    """A `tokenizers.Tokenizer` that knows no special tokens in a text."""
    library = import_tokenizers()
    model = library.models.WordPiece(
        vocab=dict(ids),
        unk_token=UNKNOWN,
        max_input_chars_per_word=LONGEST_WORD,
        continuing_subword_prefix=PREFIX,
    )
    backend = library.Tokenizer(model)
    backend.normalizer = library.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=isolate_chinese,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    backend.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    return backend
