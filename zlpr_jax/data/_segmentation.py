"""Words of a segmented text as words of its tokens."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zlpr_jax.data._encoding import NOWHERE, Encoding, Ints


def words_of_segmentation(
    encoding: Encoding,
    segments: Sequence[str],
    pair_segments: Sequence[str] | None = None,
) -> Ints:
    """The word of each token where words are those of a segmentation.

    For masking whole words of Chinese, where `Encoding.words` are single characters.

    A token over the border of two segments joins them into one word: a mask hides
    whole tokens. White space belongs to a segment only if it is inside of it, and is
    a word of its own else, where it has tokens at all.

    Args:
        encoding: Of the texts.
        segments: The words of the first text in order, all of it but white space.
        pair_segments: Those of the second text; `None` leaves its words as they are.

    Returns:
        int32 `[T]`, as `Encoding.words`.

    Raises:
        ValueError: The segments are not the characters of the text.

    Examples:
        >>> from zlpr_jax.data.tokenizer import SPECIAL, Tokenizer
        >>> encoding = Tokenizer((*SPECIAL, *"我爱北京")).encode("我爱 北京")
        >>> encoding.words.tolist()
        [-1, 0, 1, 2, 3, -1]
        >>> words_of_segmentation(encoding, ["我", "爱", "北京"]).tolist()
        [-1, 0, 1, 2, 2, -1]
    """
    given = [segments, pair_segments][: len(encoding.sources)]
    if pair_segments is not None and len(given) < 2:
        raise ValueError("pair_segments must be None: the encoding has one text.")
    words = np.full_like(encoding.words, NOWHERE)
    count = 0
    for number, parts in enumerate(given):
        tokens = np.flatnonzero(encoding.texts == number)
        old = encoding.words[tokens]
        if parts is not None:
            old = _segments_of(
                encoding.offsets[tokens], _borders(encoding.sources[number], parts)
            )
        new = np.cumsum(np.diff(old, prepend=old[:1]) != 0)
        words[tokens] = count + new
        count += int(new[-1]) + 1 if len(new) else 0
    return words


def _borders(text: str, segments: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Whether a word begins at each character of a text, `[n]`."""
    places = [place for place, letter in enumerate(text) if not letter.isspace()]
    pieces = ["".join(segment.split()) for segment in segments]
    wanted, got = "".join(text[place] for place in places), "".join(pieces)
    if wanted != got:
        same = len(list(itertools.takewhile(bool, map(str.__eq__, wanted, got))))
        raise ValueError(
            "the segments must be the characters of the text but for white space; from "
            f"character {places[same] if same < len(places) else len(text)} on the "
            f"text has {wanted[same : same + 10]!a}, the segments "
            f"{got[same : same + 10]!a}."
        )
    lengths = [len(piece) for piece in pieces if piece]
    begins = np.zeros(len(text) + 1, bool)
    for at in itertools.accumulate(lengths, initial=0):
        # White space before a word is no part of it, and none of the one before.
        end = places[at] if at < len(places) else len(text)
        begins[end] = True
        begins[places[at - 1] + 1 if at else 0] = True
    return begins[:-1]


def _segments_of(offsets: Ints, begins: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """The word of each token, ascending, after words that share a token are joined."""
    begins = begins.copy()
    for start, end in offsets.tolist():
        begins[start + 1 : end] = False
    return np.cumsum(begins, dtype=np.intp)[offsets[:, 0]]
