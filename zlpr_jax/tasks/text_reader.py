"""From texts to the ids of their tokens, as a run folder keeps it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zlpr_jax.data.tokenizer import Tokenizer


class TextReader(NamedTuple):
    """A tokenizer and how much it reads.

    Attributes:
        tokenizer: From text to tokens.
        length: Tokens of a text, special ones included, at most; what is more is cut.

    Examples:
        >>> from zlpr_jax.data.tokenizer import SPECIAL
        >>> reader = TextReader(Tokenizer((*SPECIAL, "a", "b")), length=4)
        >>> [ids.tolist() for ids in reader(["b", "a b a"])]
        [[2, 6, 3], [2, 5, 6, 3]]
        >>> TextReader.from_json(reader.to_json()) == reader
        True
    """

    tokenizer: Tokenizer
    length: int

    def __call__(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """The ids of the tokens of texts."""
        encodings = self.tokenizer.encode_batch(texts, max_length=self.length)
        return [encoding.ids for encoding in encodings]

    def to_json(self) -> dict[str, Any]:
        """The reader as a dict that `json.dumps` takes."""
        tokenizer = dataclasses.asdict(self.tokenizer)
        tokens = list(tokenizer["tokens"])
        return {"tokenizer": {**tokenizer, "tokens": tokens}, "length": self.length}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TextReader":
        """The reader that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: If it is something else.
        """
        fields = value["tokenizer"]
        tokenizer = Tokenizer(**{**fields, "tokens": tuple(fields["tokens"])})
        return cls(tokenizer, int(value["length"]))
