"""WordPiece vocabularies: vocab.txt, one token a line."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zlpr_jax.data._open import fail, read_text

PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PREFIX = "##"  # of a piece that continues a word
LONGEST_WORD = 100  # characters; BERT takes a longer one for unknown
VOCABULARY = "vocab.txt"


def check_tokens(tokens: Sequence[str]) -> None:
    """Raise `ValueError` for tokens that are no vocabulary."""
    for number, token in enumerate(tokens):
        if not token:
            raise ValueError(f"token {number} is empty: remove it.")
    twice = _repeated(tokens)
    if twice is not None:
        first, second = twice
        raise ValueError(
            f"token {second}, {tokens[second]!a}, is token {first} too: remove one."
        )
    missing = [token for token in SPECIAL if token not in set(tokens)]
    if missing:
        raise ValueError(
            f"the special tokens {', '.join(missing)} are not there: add them."
        )


def read_wordpiece_vocabulary(path: str | os.PathLike[str]) -> tuple[str, ...]:
    r"""Read the tokens of a vocab.txt in the order of their ids.

    One token a line in UTF-8, lines ended by "\n", or all of them by "\r\n". No other
    character ends a line: U+2028, which `str.splitlines` splits at, is a token of
    bert-base-chinese.

    Args:
        path: The file, or the folder that holds it as vocab.txt.

    Returns:
        The tokens.

    Raises:
        InputError: The file is missing or no UTF-8, or a token is empty, there twice
            or, of [PAD], [UNK], [CLS], [SEP] and [MASK], missing.

    Examples:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "vocab.txt")
        ...     tokens = [*SPECIAL, "\u2028", "a", "##b"]
        ...     write_vocabulary(path, tokens)
        ...     read_wordpiece_vocabulary(folder)[5:]
        ('\u2028', 'a', '##b')
    """
    file = Path(path)
    if os.path.isdir(file):
        file /= VOCABULARY
    lines = read_text(file).split("\n")
    if not lines[-1]:
        lines.pop()
    # A line that is nothing but "\r" is a token where lines end with "\n".
    if lines[0].endswith("\r"):
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\r") and number < len(lines):
                raise fail(
                    str(file),
                    number,
                    'ends with "\\n", the first line with "\\r\\n": write all lines '
                    "with one of them",
                )
        lines = [line.removesuffix("\r") for line in lines]
    for number, line in enumerate(lines, start=1):
        if not line:
            raise fail(str(file), number, "is empty, expected a token: remove the line")
    twice = _repeated(lines)
    if twice is not None:
        first, second = twice
        raise fail(
            str(file),
            second + 1,
            f"has the token of line {first + 1}, {lines[second]!a}: a token has one "
            "id, rename one of them",
        )
    missing = [token for token in SPECIAL if token not in set(lines)]
    if missing:
        raise fail(
            str(file),
            len(lines),
            f"the file ends without {', '.join(missing)}; expected the vocabulary of a "
            "BERT, one token a line",
        )
    return tuple(lines)


def write_vocabulary(path: str | os.PathLike[str], tokens: Sequence[str]) -> None:
    r"""Write tokens as a vocab.txt, which `read_wordpiece_vocabulary` reads back.

    Args:
        path: The file.
        tokens: In the order of their ids.

    Raises:
        ValueError: They are no vocabulary, or a token cannot stand on a line of UTF-8.
    """
    check_tokens(tokens)
    for number, token in enumerate(tokens):
        if "\n" in token or token.endswith("\r"):
            raise ValueError(
                f"token {number}, {token!a}, cannot stand on a line: remove it."
            )
    if tokens[0].startswith("\ufeff"):
        raise ValueError(
            "token 0 begins with U+FEFF, which is a byte-order mark at the start of a "
            "file: put another token first."
        )
    try:
        content = "".join(f"{token}\n" for token in tokens).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"a token holds half a surrogate pair, {error.object[error.start]!a}, "
            "which is no character: remove it."
        ) from None
    Path(path).write_bytes(content)  # bytes: "\n" stays "\n" on every system


def trim_vocabulary(
    tokens: Sequence[str], keep: npt.NDArray[np.bool_] | Sequence[bool]
) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
    """A part of a vocabulary, and the rows of an embedding that belong to it.

    Text all of whose tokens are kept is cut into the same tokens as before.

    Args:
        tokens: The vocabulary.
        keep: Whether each token is kept, `[V]`; the five special ones always are. For
            example `Tokenizer.count(texts) > 2`.

    Returns:
        The tokens that are kept, in their order, and their ids in the old vocabulary,
        int32 `[K]`: `table[ids]` is the new embedding.

    Raises:
        ValueError: `keep` has not one boolean for each token.

    Examples:
        >>> tokens = (*SPECIAL, "a", "##a", "b")
        >>> kept, ids = trim_vocabulary(tokens, ["##" not in token for token in tokens])
        >>> kept[5:], ids.tolist()
        (('a', 'b'), [0, 1, 2, 3, 4, 5, 7])
    """
    mask = np.array(keep)
    if mask.dtype != bool or mask.shape != (len(tokens),):
        raise ValueError(
            f"keep must be one bool for each of the {len(tokens)} tokens, got "
            f"{mask.dtype} {list(mask.shape)}: compare counts with a number."
        )
    special = [number for number, token in enumerate(tokens) if token in SPECIAL]
    mask[special] = True
    ids = np.flatnonzero(mask).astype(np.int32)
    return tuple(tokens[number] for number in ids.tolist()), ids


def _repeated(tokens: Sequence[str]) -> tuple[int, int] | None:
    """The places of the first token that is there twice."""
    if len(set(tokens)) == len(tokens):
        return None
    places: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if token in places:
            return places[token], number
        places[token] = number
    return None
