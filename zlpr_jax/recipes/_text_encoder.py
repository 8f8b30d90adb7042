"""A pretrained encoder and its tokenizer, as an experiment on texts takes them."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.data.tokenizer import Tokenizer
from zlpr_jax.models.bert import BertConfig
from zlpr_jax.models.pretrained import from_pretrained
from zlpr_jax.tasks.text_reader import TextReader


class TextEncoder(NamedTuple):
    """What reads the texts of an experiment.

    Attributes:
        config: The encoder's shape, without pooler and masked head.
        params: Its parameters, float32.
        reader: From texts to tokens.
    """

    config: BertConfig
    params: PyTree
    reader: TextReader

    def digest(self) -> str:
        """What changes with the tokenizer and the parameters."""
        digest = hashlib.sha256(json.dumps(self.reader.to_json()).encode())
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()


def read_text_encoder(folder: Path, length: int) -> TextEncoder:
    """Read a pretrained encoder.

    Args:
        folder: As for `from_pretrained`, with the tokenizer's files.
        length: Tokens of a text, at most.

    Raises:
        InputError: If a file is missing or damaged, or `length` is more than the
            encoder has positions for.
    """
    config, params, _ = from_pretrained(folder, pooler=False, masked_head=False)
    tokenizer = Tokenizer.load(folder)
    if length > config.max_length:
        raise InputError(
            f"{folder}: the encoder reads {config.max_length} tokens at most, less "
            f"than text.length = {length}: make that smaller."
        )
    if len(tokenizer) > config.vocabulary:
        raise InputError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the encoder "
            f"{config.vocabulary}: they do not belong together."
        )
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    return TextEncoder(config, params, TextReader(tokenizer, length))
