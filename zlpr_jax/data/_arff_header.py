"""The head of an ARFF file: @relation, @attribute, @data; and its quoting."""

import dataclasses
import re
from typing import Literal

from zlpr_jax._errors import InputError
from zlpr_jax.data._open import fail

_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ATTRIBUTE = re.compile(rf"@attribute\s+({_QUOTED}|[^\s{{'\"][^\s{{]*)\s*(.*)", re.I)
_CELL = re.compile(rf"\s*(?:({_QUOTED})|([^,]*?))\s*(,|$)")
_ESCAPE = re.compile(r"\\(.)")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t"}
_NUMERIC = ("numeric", "real", "integer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribute:
    """One @attribute line.

    Attributes:
        name: unquoted, unescaped.
        kind: "numeric", "nominal" or "string".
        values: what a nominal attribute may be, in the declared order.
        line: where it stands.
    """

    name: str
    kind: Literal["numeric", "nominal", "string"]
    values: tuple[str, ...] = ()
    line: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """All before the rows.

    Attributes:
        relation: the text after @relation.
        attributes: in order.
        end: how many lines it takes, @data included.
    """

    relation: str
    attributes: tuple[Attribute, ...]
    end: int


def unquote(token: str) -> str:
    r"""A name or value without its quotes and escapes; unquoted ones stay as they are.

    Examples:
        >>> print(unquote(r"'it\'s'"), unquote(r"m\'usica"))
        it's m\'usica
    """
    token = token.strip()
    if token[:1] not in ("'", '"') or len(token) < 2 or token[-1] != token[0]:
        return token
    if "\\" not in token:
        return token[1:-1]
    return _ESCAPE.sub(lambda match: _LETTERS.get(match[1], match[1]), token[1:-1])


def split_cells(text: str) -> list[str]:
    r"""Split at commas outside quotes, unquoting each cell.

    Raises:
        ValueError: a quote is not closed, or something follows it.

    Examples:
        >>> split_cells("a, 'b,c' ,don't")
        ['a', 'b,c', "don't"]
    """
    if "'" not in text and '"' not in text:
        return [cell.strip() for cell in text.split(",")]
    cells: list[str] = []
    position = 0
    while True:
        match = _CELL.match(text, position)
        if match is None or (match[2] or "")[:1] in ("'", '"'):
            raise ValueError("a quote is not closed")
        cells.append(unquote(match[1]) if match[1] is not None else match[2])
        position = match.end()
        if not match[3]:
            return cells


def parse_header(lines: list[str], path: str) -> Header:
    """Parse the lines up to @data.

    Args:
        lines: the whole file.
        path: its name, for errors.

    Returns:
        The header.

    Raises:
        InputError: a line is malformed, or there is no @data or no attribute.
    """
    relation = ""
    attributes: list[Attribute] = []
    names: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        content = line.strip()
        if not content or content.startswith("%"):
            continue
        word = content.split(None, 1)[0].lower()
        if word == "@relation":
            relation = content[len(word) :].strip()
        elif word == "@attribute":
            attribute = _parse_attribute(content, path, number)
            if attribute.name in names:
                raise fail(
                    path,
                    number,
                    f"attribute {attribute.name!r} is also on line "
                    f"{names[attribute.name]}: rename one",
                )
            names[attribute.name] = number
            attributes.append(attribute)
        elif word == "@data":
            if not attributes:
                raise fail(path, number, "@data before any @attribute")
            return Header(relation=relation, attributes=tuple(attributes), end=number)
        else:
            shown = content if len(content) <= 40 else content[:37] + "..."
            raise fail(
                path,
                number,
                f"{shown!r}; expected @relation, @attribute or @data: is this ARFF?",
            )
    raise InputError(f"{path}: no @data line; expected one: the file is cut off")


def _parse_attribute(content: str, path: str, line: int) -> Attribute:
    match = _ATTRIBUTE.fullmatch(content)
    if match is None or not match[2]:
        raise fail(path, line, "expected @attribute NAME TYPE")
    name, declared = unquote(match[1]), match[2].strip()
    if declared.startswith("{"):
        if not declared.endswith("}"):
            raise fail(path, line, f"the values of {name!r} end without '}}'")
        try:
            values = tuple(split_cells(declared[1:-1]))
        except ValueError as error:
            raise fail(path, line, f"the values of {name!r}: {error}") from None
        if len(set(values)) != len(values):
            raise fail(path, line, f"a value of {name!r} is declared twice")
        return Attribute(name=name, kind="nominal", values=values, line=line)
    word = declared.split()[0].lower()
    if word in _NUMERIC:
        return Attribute(name=name, kind="numeric", line=line)
    if word == "string":
        return Attribute(name=name, kind="string", line=line)
    raise fail(
        path,
        line,
        f"attribute {name!r} is {word!r}; expected numeric, string or {{values}}: "
        "convert or remove it",
    )
