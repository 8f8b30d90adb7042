"""Texts by lines, with the words of a segmentation of the same texts."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zlpr_jax._errors import InputError
from zlpr_jax.data._open import fail, lines_of, read_text, unpacked_name
from zlpr_jax.data._png import list_folder
from zlpr_jax.data.text import Texts, read_texts


class Line(NamedTuple):
    """A line of a document.

    Attributes:
        text: The line.
        segments: Its words; `None` if nobody told.
    """

    text: str
    segments: tuple[str, ...] | None = None


class _Place(NamedTuple):
    """Where a document is: its first line, and how far the next one is below it."""

    path: str
    line: int
    step: int


Document = tuple[Line, ...]


def split_lines(texts: Texts) -> list[Document]:
    r"""The lines of documents, without those that are blank.

    Examples:
        >>> split_lines(Texts(documents=("one\n\ntwo",), path="t.txt"))
        [(Line(text='one', segments=None), Line(text='two', segments=None))]
    """
    return [
        tuple(Line(line) for line in lines_of(document) if line.strip())
        for document in texts.documents
    ]


def segment_lines(texts: Texts, path: str | os.PathLike[str]) -> list[Document]:
    """The lines of documents, with their words as another file has them.

    It holds the same texts, in the form that they have, with white space between words:
    what any segmenter of Chinese gives for them line by line.

    Args:
        texts: The texts.
        path: A file or folder as `read_texts` takes it.

    Returns:
        The lines of each document, without those that are blank.

    Raises:
        InputError: The segmentation cannot be read, or is not one of these texts; the
            message names file and line.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "words.txt"
        >>> path.write_bytes("我 爱 北京".encode())
        14
        >>> segment_lines(Texts(documents=("我爱北京",), path="t.txt"), path)
        [(Line(text='我爱北京', segments=('我', '爱', '北京')),)]
    """
    source = Path(path)
    segmented = read_texts(source)
    if len(segmented.documents) != len(texts.documents):
        raise InputError(
            f"{source}: holds {len(segmented.documents)} documents, {texts.path} holds "
            f"{len(texts.documents)}: segment the same texts"
        )
    places = _places(source, len(segmented.documents))
    parts = zip(texts.documents, segmented.documents, places, strict=True)
    return [_segment(text, other, place) for text, other, place in parts]


def _segment(text: str, other: str, place: _Place) -> Document:
    lines, segmented = lines_of(text), lines_of(other)
    found = []
    for number in range(max(len(lines), len(segmented))):
        line = lines[number] if number < len(lines) else ""
        words = segmented[number].split() if number < len(segmented) else []
        wanted, got = "".join(line.split()), "".join(words)
        if wanted != got:
            pairs = zip(wanted, got, strict=False)
            same = len(list(itertools.takewhile(lambda two: two[0] == two[1], pairs)))
            raise fail(
                place.path,
                place.line + number * place.step,
                f"the words are not those of the text: after {same} characters they "
                f"have {_shown(got[same:])}, the text has {_shown(wanted[same:])}; "
                "expected the same line with white space between words",
            )
        if wanted:
            found.append(Line(line, tuple(words)))
    return tuple(found)


def _places(source: Path, count: int) -> Sequence[_Place]:
    if os.path.isdir(source):
        files = [
            file
            for file in list_folder(source)[0]
            if unpacked_name(file).suffix.lower() == ".txt"
        ]
        return [_Place(str(file), 1, 1) for file in files]
    if unpacked_name(source).suffix.lower() != ".jsonl":
        return [_Place(str(source), 1, 1)] * count
    lines = enumerate(lines_of(read_text(source)), start=1)
    return [_Place(str(source), number, 0) for number, line in lines if line.strip()]


def _shown(text: str) -> str:
    return repr(text[:10]) if text else "nothing more"
