"""WordPiece: text to the tokens of a BERT, and the tokens' places in the text.

`Tokenizer.load` reads the folder of a BERT, `train_wordpiece` makes a new vocabulary,
`trim_vocabulary` a smaller one. `Tokenizer.encode` gives an `Encoding`, which finds the
tokens of a span of characters and the characters of a span of tokens.
"""

import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError
from zlpr_jax.data._characters import Characters
from zlpr_jax.data._encoding import Encoding, Pieces, join
from zlpr_jax.data._segmentation import words_of_segmentation
from zlpr_jax.data._wordpiece import (
    CLS,
    MASK,
    PAD,
    SEP,
    SPECIAL,
    UNKNOWN,
    check_tokens,
    read_wordpiece_vocabulary,
    trim_vocabulary,
    write_vocabulary,
)
from zlpr_jax.data._wordpiece_backend import make_backend
from zlpr_jax.data._wordpiece_folder import Settings, read_folder, write_folder
from zlpr_jax.data._wordpiece_training import train_wordpiece

__all__ = [
    "SPECIAL",
    "Encoding",
    "Tokenizer",
    "read_wordpiece_vocabulary",
    "train_wordpiece",
    "trim_vocabulary",
    "words_of_segmentation",
    "write_vocabulary",
]

PieceLevel = Literal["piece", "character"]

_CHUNK = 1024  # texts that are encoded at once: bounds what the library holds
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to WordPiece tokens, as BERT does it.

    BERT drops control characters, puts white space around Chinese characters and
    punctuation, optionally lower-cases, and cuts each word into the longest pieces that
    are in the vocabulary, those within a word written "##ing". Special tokens are no
    text: a text in which "[SEP]" is written has the tokens "[", "sep" and "]".

    | level | tokens | spans of characters that are spans of tokens |
    |---|---|---|
    | `"piece"` | those of BERT | no end is in a piece, white space or dropped |
    | `"character"` | each character: "i", "##p", "##h", … | all |

    Of the entities in CLUENER and DuIE, pieces miss 1 in 2,000. Characters cost 4 to
    7 % more tokens in such Chinese text, and 3 times as many in English; white space
    and what BERT drops are then tokens too, [UNK]; and a model that was trained on
    pieces has seldom seen words like that.

    Attributes:
        tokens: The vocabulary, in the order of the ids.
        lowercase: Whether capitals count as small letters.
        strip_accents: Whether é counts as e; `None` for the same as `lowercase`.
        isolate_chinese: Whether each Chinese character is a word.
        level: `"piece"` or `"character"`.
        split_unknown: Whether of a word that the vocabulary lacks some characters of
            only these are [UNK], each by itself, instead of the whole word. BERT does
            not, and its tokens of other words are the same. No matter for characters.

    Raises:
        ValueError: `tokens` are no vocabulary with the special tokens `SPECIAL`, or
            `level` is no level.

    Examples:
        >>> tokens = (*SPECIAL, "i", "##phone", "##p", "##h", "##o", "##n", "##e", "好")
        >>> tokenizer = Tokenizer(tokens)
        >>> encoding = tokenizer.encode("iPhone好")
        >>> [tokens[number] for number in encoding.ids]
        ['[CLS]', 'i', '##phone', '好', '[SEP]']
        >>> encoding.offsets.tolist()
        [[-1, -1], [0, 1], [1, 6], [6, 7], [-1, -1]]
        >>> encoding.token_span(0, 6), encoding.token_span(0, 5)
        ((1, 2), None)
        >>> characters = Tokenizer(tokens, level="character").encode("iPhone好")
        >>> characters.token_span(0, 5), characters.text(1, 5)
        ((1, 5), 'iPhon')
    """

    tokens: tuple[str, ...]
    lowercase: bool = True
    strip_accents: bool | None = None
    isolate_chinese: bool = True
    level: PieceLevel = "piece"
    split_unknown: bool = False

    def __post_init__(self):
        if self.level not in get_args(PieceLevel):
            raise ValueError(
                f"level must be {' or '.join(get_args(PieceLevel))}, got "
                f"{self.level!r}."
            )
        for name, value in (
            ("lowercase", self.lowercase),
            ("isolate_chinese", self.isolate_chinese),
            ("split_unknown", self.split_unknown),
        ):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, got {value!r}.")
        if self.strip_accents not in (None, True, False):
            raise ValueError(
                "strip_accents must be True, False or None, got "
                f"{self.strip_accents!r}."
            )
        check_tokens(self.tokens)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        lowercase: bool | None = None,
        level: PieceLevel | None = None,
        split_unknown: bool | None = None,
    ) -> "Tokenizer":
        """Read a vocab.txt, or the folder of a BERT.

        Of a folder, vocab.txt is read or else tokenizer.json, and "do_lower_case",
        "strip_accents" and "tokenize_chinese_chars" of tokenizer_config.json.

        Args:
            path: The file or folder.
            lowercase: As the attribute; `None` for what the folder says, or `True`.
            level: As the attribute; `None` for what `save` wrote, or `"piece"`.
            split_unknown: As the attribute; `None` for what `save` wrote, or `False`.

        Returns:
            The tokenizer.

        Raises:
            InputError: A file is missing, damaged or not of a WordPiece tokenizer; the
                message names the file and the line.
        """
        source = Path(path)
        if os.path.isdir(source):
            tokens, settings, own = read_folder(source)
        else:
            tokens, settings, own = read_wordpiece_vocabulary(source), Settings(), {}
        given = Settings(lowercase=lowercase).filled_from(settings)
        isolated = given.isolate_chinese
        for name, values in (
            ("level", get_args(PieceLevel)),
            ("split_unknown", (False, True)),
        ):
            value = own.get(name, values[0])
            if type(value) is not type(values[0]) or value not in values:
                raise InputError(
                    f"{source}: {name} must be one of {values}, got {value!a}: "
                    "save the tokenizer again"
                )
        return cls(
            tokens,
            lowercase=True if given.lowercase is None else given.lowercase,
            strip_accents=given.strip_accents,
            isolate_chinese=True if isolated is None else isolated,
            level=own.get("level", "piece") if level is None else level,
            split_unknown=(
                own.get("split_unknown", False)
                if split_unknown is None
                else split_unknown
            ),
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write vocab.txt and tokenizer_config.json, for `load` and for transformers.

        transformers knows neither levels nor `split_unknown`, and reads special tokens
        in a text as such unless it is given `split_special_tokens=True`.

        Args:
            folder: Where; made if it is not there. Files of these names are replaced.

        Raises:
            InputError: There is a tokenizer.json, which others would read instead.
        """
        settings = Settings(
            lowercase=self.lowercase,
            strip_accents=self.strip_accents,
            isolate_chinese=self.isolate_chinese,
        )
        own = {"level": self.level, "split_unknown": self.split_unknown}
        write_folder(Path(folder), self.tokens, settings, own)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def pad_id(self) -> int:
        """The id of [PAD]."""
        return self._ids[PAD]

    @property
    def unknown_id(self) -> int:
        """The id of [UNK]."""
        return self._ids[UNKNOWN]

    @property
    def cls_id(self) -> int:
        """The id of [CLS]."""
        return self._ids[CLS]

    @property
    def sep_id(self) -> int:
        """The id of [SEP]."""
        return self._ids[SEP]

    @property
    def mask_id(self) -> int:
        """The id of [MASK]."""
        return self._ids[MASK]

    def encode(
        self, text: str, pair: str | None = None, *, max_length: int | None = None
    ) -> Encoding:
        """The tokens of a text, or of a pair of texts, with [CLS] and [SEP].

        Args:
            text: Any text.
            pair: A second one.
            max_length: How many tokens there are at most, with the special ones, >= 2,
                or 3 for a pair. Of a text that is longer the last tokens are cut, of a
                pair always those of the text that has more left, of the second if they
                have as many; `Encoding.cut` counts them. `None`: nothing is cut.

        Returns:
            The tokens.

        Raises:
            ValueError: `max_length` has no room for the special tokens.
        """
        pairs = None if pair is None else [pair]
        return self.encode_batch([text], pairs, max_length=max_length)[0]

    def encode_batch(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int | None = None,
    ) -> list[Encoding]:
        """Texts as `encode` gives each, in the order in which they are given.

        Args:
            texts: Texts.
            pairs: As many second ones.
            max_length: As for `encode`.

        Returns:
            The tokens of each; they are not padded.

        Raises:
            ValueError: `max_length` has no room for the special tokens, or there are
                more or fewer pairs than texts.
        """
        columns = [texts] if pairs is None else [texts, pairs]
        if any(isinstance(column, str) for column in columns):
            raise TypeError("texts must be a sequence of texts, got one text.")
        if len(columns[-1]) != len(texts):
            raise ValueError(
                f"pairs must be one for each text, got {len(columns[-1])} pairs and "
                f"{len(texts)} texts."
            )
        marks = len(columns) + 1
        if max_length is not None and max_length < marks:
            raise ValueError(
                f"max_length must be >= {marks}, the special tokens, got {max_length}."
            )
        room = None if max_length is None else max_length - marks
        encodings = []
        for start in range(0, len(texts), _CHUNK):
            part = [column[start : start + _CHUNK] for column in columns]
            for sources, pieces in zip(
                zip(*part, strict=True),
                zip(*map(self._pieces, part), strict=True),
                strict=True,
            ):
                encodings.append(
                    join(sources, pieces, room, cls=self.cls_id, sep=self.sep_id)
                )
        return encodings

    def count(self, texts: Iterable[str]) -> npt.NDArray[np.int64]:
        """How often each token occurs in texts, int64 `[V]`; special ones do not count.

        For `trim_vocabulary`.

        Examples:
            >>> Tokenizer((*SPECIAL, "a", "b")).count(["a b", "a", "x"]).tolist()
            [0, 1, 0, 0, 0, 2, 1]
        """
        counts = np.zeros(len(self), np.int64)
        rest = iter(texts)
        while chunk := list(itertools.islice(rest, _CHUNK)):
            found = [number for pieces in self._pieces(chunk) for number in pieces.ids]
            counts += np.bincount(np.asarray(found, np.int64), minlength=len(self))
        return counts

    def __getstate__(self) -> dict[str, Any]:
        # What is derived is made again where it is needed, not sent to another process.
        return {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    @functools.cached_property
    def _backend(self) -> Any:
        return make_backend(
            self._ids,
            lowercase=self.lowercase,
            strip_accents=self.strip_accents,
            isolate_chinese=self.isolate_chinese,
        )

    @functools.cached_property
    def _characters(self) -> Characters:
        return Characters(
            ids=self._ids,
            normalizer=self._backend.normalizer,
            pre_tokenizer=self._backend.pre_tokenizer,
        )

    def _pieces(self, texts: Sequence[str]) -> list[Pieces]:
        # Half a surrogate pair is no character, and BERT drops U+FFFD, which says so.
        clean = [_SURROGATES.sub("\ufffd", text) for text in texts]
        if self.level == "character":
            return [self._characters.split(text) for text in clean]
        found = [
            Pieces(
                ids=part.ids,
                starts=[start for start, _ in part.offsets],
                ends=[end for _, end in part.offsets],
                words=part.word_ids,
            )
            for part in self._backend.encode_batch(clean, add_special_tokens=False)
        ]
        if not self.split_unknown:
            return found
        return [
            self._characters.split_unknown(text, pieces)
            for text, pieces in zip(clean, found, strict=True)
        ]
