"""Texts from files, for language modelling."""

import dataclasses
import json
import os
from pathlib import Path

from zlpr_jax._errors import InputError
from zlpr_jax.data._open import fail, lines_of, read_text, unpacked_name
from zlpr_jax.data._png import list_folder

_PLAIN = (".txt", ".text", ".md")
_JSONL = ".jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts:
    """Documents of text.

    Attributes:
        documents: The texts, none of them empty.
        path: What they were read from, for messages.
    """

    documents: tuple[str, ...]
    path: str


def read_texts(path: str | os.PathLike[str]) -> Texts:
    r"""Read documents of text, in UTF-8.

    | source | documents |
    |---|---|
    | a .txt, .text or .md file | one |
    | a .jsonl file | of each line's object the string "text", and nothing else |
    | a folder | each .txt file in it, in the order of their names |

    Files may end in .gz or .bz2 besides. `\r\n` becomes `\n`.

    Args:
        path: The file or folder.

    Returns:
        The documents.

    Raises:
        InputError: The source is missing, empty, not UTF-8, damaged or of no known
            form; the message names file, line and remedy.

    Examples:
        >>> import pathlib, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name, "notes.txt")
        >>> path.write_bytes(b"one\r\ntwo\n")
        9
        >>> read_texts(path).documents
        ('one\ntwo\n',)
        >>> read_texts(folder.name).documents
        ('one\ntwo\n',)
        >>> path.write_bytes(b" ")
        1
        >>> read_texts(path)
        Traceback (most recent call last):
            ...
        zlpr_jax._errors.InputError: ...notes.txt: is empty; ...
        >>> folder.cleanup()
    """
    source = Path(path)
    if os.path.isdir(source):  # Path.is_dir raises if the name is too long
        documents = [_unix(read_text(file)) for file in _text_files(source)]
    else:
        documents = _read_file(source)
    return Texts(documents=tuple(documents), path=str(source))


def _text_files(folder: Path) -> list[Path]:
    files, _ = list_folder(folder)
    texts = [file for file in files if unpacked_name(file).suffix.lower() == ".txt"]
    if not texts:
        raise InputError(
            f"{folder}: holds no .txt file; expected one for each document: name the "
            "folder that holds them, or a file"
        )
    return texts


def _read_file(path: Path) -> list[str]:
    extension = unpacked_name(path).suffix.lower()
    # What is no regular file, such as a pipe, has no extension.
    if os.path.isfile(path) and extension not in (*_PLAIN, _JSONL):
        raise InputError(
            f"{path}: is of no known form by its name; expected "
            f"{', '.join(_PLAIN)} or {_JSONL} (and .gz or .bz2 after it): rename or "
            "convert it"
        )
    text = read_text(path)
    if extension != _JSONL:
        return [_unix(text)]
    lines = enumerate(lines_of(text), start=1)
    return [
        _unix(_text(line, str(path), number)) for number, line in lines if line.strip()
    ]


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


def _text(line: str, path: str, number: int) -> str:
    """The "text" of a line of JSON."""
    expected = 'expected a JSON object such as {"text": "a fine day"}'
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise fail(path, number, f"is not JSON ({error}); {expected}") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise fail(path, number, f'has no string "text"; {expected}')
    text = record["text"]
    if not text.strip():
        raise fail(path, number, 'its "text" is empty: remove the line')
    try:
        text.encode()
    except UnicodeEncodeError as error:  # "\ud800" is JSON, but no character
        raise fail(
            path,
            number,
            f'its "text" holds half a surrogate pair, {text[error.start]!a}, which is '
            "no character: write the whole pair, or remove it",
        ) from None
    return text
