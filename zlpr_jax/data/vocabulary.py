"""Text to token ids and back: by characters or by words."""

import collections
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError

Level = Literal["character", "word"]

END, UNKNOWN = range(2)
SPECIAL = ("<end>", "<unk>")

# A word with its inner apostrophes, a line end, or one other character but white space.
_WORD = re.compile(r"\w+(?:['’]\w+)*|\n|[^\w\s]")
_CLOSING = frozenset(".,;:!?)]}%…")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    r"""The tokens that a language model knows.

    Characters are exact: `decode(encode(text)) == text` if all of them are known.

    Words are runs of letters, digits and `_` with apostrophes inside, such as "don't".
    Any other character but white space is a token of its own, and so is a line end.
    Other white space only separates, and is lost: `decode` puts a space between tokens,
    but none at a line end nor before one of `.,;:!?)]}%…`. What it gives is
    encoded to the same ids again.

    The two special tokens are no text: a text in which "<end>" is written has the
    tokens that it consists of.

    Attributes:
        level: `"character"` or `"word"`.
        tokens: The token of every id: "<end>", which stands between texts, "<unk>" for
            those that are not known, and the others.

    Raises:
        ValueError: `tokens` are not those of a vocabulary of that level.

    Examples:
        >>> words = Vocabulary.build(["Well, well. It's well!"], "word")
        >>> words.tokens
        ('<end>', '<unk>', 'well', '!', ',', '.', "It's", 'Well')
        >>> words.encode("Well: it's <end>").tolist()
        [7, 1, 1, 1, 1, 1]
        >>> words.decode([7, 4, 2, 5])
        'Well, well.'
    """

    level: Level
    tokens: tuple[str, ...]

    def __post_init__(self):
        if self.level not in get_args(Level):
            raise ValueError(
                f"level must be {' or '.join(get_args(Level))}, got {self.level!r}."
            )
        if self.tokens[:2] != SPECIAL:
            raise ValueError(
                f"the first tokens must be {', '.join(SPECIAL)}, got {self.tokens[:2]}."
            )
        for token in self.tokens[2:]:
            if self._split(token) != [token]:
                raise ValueError(f"{token!a} must be one {self.level}.")
        if len(self._ids) < len(self) - 2:
            counts = collections.Counter(self.tokens)
            raise ValueError(f"token {counts.most_common(1)[0][0]!a} is there twice.")

    @classmethod
    def build(
        cls, documents: Iterable[str], level: Level, *, size: int | None = None
    ) -> "Vocabulary":
        """The tokens of texts, those that occur most often first.

        Tokens that occur equally often are in the order of their code points.

        Args:
            documents: The texts.
            level: `"character"` or `"word"`.
            size: How many tokens are kept at most, the two special ones included, > 2;
                `None` for all.

        Returns:
            The vocabulary.

        Raises:
            ValueError: `size` or `level` is not one of those.
        """
        if size is not None and size <= len(SPECIAL):
            raise ValueError(
                f"size must be more than the {len(SPECIAL)} special tokens, got {size}."
            )
        empty = cls(level, SPECIAL)
        counts = collections.Counter(
            itertools.chain.from_iterable(map(empty._split, documents))
        )
        order = sorted(counts, key=lambda token: (-counts[token], token))
        return cls(level, (*SPECIAL, *order)[:size])

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """The ids of a text, `[n]`; no special token is put around it.

        Examples:
            >>> Vocabulary.build(["aab"], "character").encode("bac").tolist()
            [3, 2, 1]
        """
        ids = (self._ids.get(token, UNKNOWN) for token in self._split(text))
        return np.fromiter(ids, np.int32)

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of ids `[n]`; the special tokens appear as they are written.

        Raises:
            ValueError: An id is not in the vocabulary.
        """
        numbers = np.asarray(ids, np.int64).reshape(-1)
        wrong = numbers[(numbers < 0) | (numbers >= len(self))]
        if len(wrong):
            raise ValueError(f"ids must be in [0, {len(self)}), got {wrong[0]}.")
        tokens = [self.tokens[number] for number in numbers.tolist()]
        if self.level == "character" or not tokens:
            return "".join(tokens)
        parts = tokens[:1]
        for last, token in itertools.pairwise(tokens):
            joined = "\n" in (last, token) or token in _CLOSING
            parts.append(token if joined else " " + token)
        return "".join(parts)

    def to_json(self) -> dict[str, Any]:
        """The vocabulary as JSON can hold it, for `from_json`.

        Write it with `json.dumps`, which escapes what UTF-8 cannot hold.
        """
        return {"level": self.level, "tokens": list(self.tokens)}

    @classmethod
    def from_json(cls, value: Any) -> "Vocabulary":
        """The vocabulary that `to_json` gave.

        Raises:
            InputError: It is not what `to_json` gives.

        Examples:
            >>> vocabulary = Vocabulary.build(["abc"], "character")
            >>> Vocabulary.from_json(vocabulary.to_json()) == vocabulary
            True
        """
        if not isinstance(value, dict) or value.keys() != {"level", "tokens"}:
            reason = "it is no object with level and tokens"
        elif not isinstance(value["tokens"], list) or not all(
            isinstance(token, str) for token in value["tokens"]
        ):
            reason = "its tokens are no list of strings"
        else:
            try:
                return cls(value["level"], tuple(value["tokens"]))
            except (ValueError, TypeError) as error:
                reason = str(error)
        raise InputError(
            f"the vocabulary is damaged ({reason}): expected what Vocabulary.to_json "
            "gives, train again or restore the file"
        )

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        """The ids of the tokens that text can consist of."""
        tokens = itertools.islice(enumerate(self.tokens), len(SPECIAL), None)
        return {token: number for number, token in tokens}

    def _split(self, text: str) -> list[str]:
        return list(text) if self.level == "character" else _WORD.findall(text)
