"""The rows of an ARFF file: dense, or sparse as `{index value, ...}`."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from zlpr_jax._errors import InputError
from zlpr_jax.data._arff_header import Attribute, split_cells, unquote
from zlpr_jax.data._open import fail
from zlpr_jax.data._parsed import csr_of_rows

Convert: TypeAlias = Callable[[str], Any]

_SPARSE_CELL = re.compile(
    r"\s*([0-9]{1,18})\s+('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^,\s'\"]\S*?)\s*(?:,|$)"
)
_PLAIN_CELL = r"\s*[0-9]{1,18}\s+[^\s,'\"]+\s*"
_PLAIN_ROW = re.compile(rf"{_PLAIN_CELL}(?:,{_PLAIN_CELL})*")


def _converters(attributes: Sequence[Attribute]) -> list[Convert]:
    """For each attribute, what turns a cell into a number."""
    kinds: dict[str, Convert] = {"numeric": float, "string": str}
    return [
        kinds[attribute.kind]
        if attribute.kind != "nominal"
        else {value: code for code, value in enumerate(attribute.values)}.__getitem__
        for attribute in attributes
    ]


def _cell_error(
    cells: Sequence[tuple[int, str]],
    attributes: Sequence[Attribute],
    path: str,
    line: int,
) -> InputError:
    """The error for the first cell of a row that does not convert."""
    converters = _converters(attributes)
    for i, cell in cells:
        try:
            converters[i](cell)
            bad = attributes[i].kind == "numeric" and "_" in cell
        except (ValueError, KeyError):
            bad = True
        if bad:
            expected = "a number"
            if attributes[i].kind == "nominal":
                values = attributes[i].values
                more = ", ..." if len(values) > 8 else ""
                expected = f"one of {{{','.join(values[:8])}{more}}}"
            missing = "a missing value, " if cell == "?" else ""
            return fail(
                path,
                line,
                f"attribute {attributes[i].name!r} is {missing}{cell!r}; expected "
                f"{expected}: fill it in, or leave the row out",
            )
    return fail(path, line, "malformed row")


def dense_table(
    lines: Sequence[str],
    numbers: Sequence[int],
    attributes: Sequence[Attribute],
    path: str,
) -> tuple[npt.NDArray[np.float64], dict[int, list[str]]]:
    """The codes of dense rows, [N, attributes], and the cells of string attributes.

    Args:
        lines: the whole file.
        numbers: the lines, from 1, that are rows.
        attributes: the columns.
        path: the file, for errors.

    Returns:
        Numbers as they stand and nominal values as positions; cells by attribute.

    Raises:
        InputError: a row is malformed.
    """
    converters = _converters(attributes)
    texts = {i: [] for i, a in enumerate(attributes) if a.kind == "string"}
    table = []
    for number in numbers:
        line = lines[number - 1].strip()
        try:
            cells = split_cells(line)
        except ValueError as error:
            raise fail(path, number, f"{error}: quote the value as 'it\\'s'") from None
        if len(cells) != len(attributes) or line.startswith("{"):
            if line.startswith("{"):
                reason = "a sparse row {...} among dense rows: write one kind"
            elif line.endswith("}"):
                reason = "has an instance weight {...}, which is not known: remove it"
            else:
                reason = (
                    f"{len(cells)} values; expected {len(attributes)}, one for each"
                )
                reason += " attribute"
            raise fail(path, number, reason)
        try:
            row = [convert(cell) for convert, cell in zip(converters, cells)]  # noqa: B905
        except (ValueError, KeyError):
            raise _cell_error(
                list(enumerate(cells)), attributes, path, number
            ) from None
        # Python reads 1_0 as 10; ARFF has no such number.
        if "_" in line and any(
            "_" in cell and attributes[i].kind == "numeric"
            for i, cell in enumerate(cells)
        ):
            raise _cell_error(list(enumerate(cells)), attributes, path, number)
        for i, column in texts.items():
            column.append(row[i])
            row[i] = 0.0
        table.append(np.array(row, dtype=np.float64))
    return np.stack(table), texts


def sparse_table(
    lines: Sequence[str],
    numbers: Sequence[int],
    attributes: Sequence[Attribute],
    path: str,
) -> csr_array:
    """The codes of sparse rows. What a row omits is 0: the first value of a nominal.

    Args:
        lines: the whole file.
        numbers: the lines, from 1, that are rows.
        attributes: the columns.
        path: the file, for errors.

    Returns:
        [N, attributes], as in `dense_table`.

    Raises:
        InputError: a row is malformed.
    """
    for attribute in attributes:
        if attribute.kind == "string":
            raise fail(
                path,
                attribute.line,
                f"string attribute {attribute.name!r} in a sparse file; expected "
                "numeric or nominal ones: remove it, or write dense rows",
            )
    converters = _converters(attributes)
    rows: list[list[int]] = []
    values: list[list[int | float]] = []
    for number in numbers:
        line = lines[number - 1].strip()
        if not (line.startswith("{") and line.endswith("}")):
            raise fail(
                path,
                number,
                "expected a sparse row {index value, ...} as in the rows before: write "
                "one kind, without instance weights",
            )
        # Most rows are plain; one match for the row costs a tenth of one for each cell.
        if _PLAIN_ROW.fullmatch(line, 1, len(line) - 1):
            words = line[1:-1].replace(",", " ").split()
            indices, cells = words[::2], words[1::2]
        else:
            indices, cells = _split_sparse(line[1:-1], path, number)
        row = list(map(int, indices))
        if row and max(row) >= len(attributes):
            raise fail(
                path,
                number,
                f"attribute index {max(row)} is out of range; expected 0 to "
                f"{len(attributes) - 1}",
            )
        try:
            value = [converters[i](cell) for i, cell in zip(row, cells, strict=True)]
            if "_" in line and any(
                "_" in cell and attributes[i].kind == "numeric"
                for i, cell in zip(row, cells, strict=True)
            ):
                raise ValueError
        except (ValueError, KeyError):
            located = list(zip(row, cells, strict=True))
            raise _cell_error(located, attributes, path, number) from None
        if len(set(row)) != len(row):
            twice = next(i for i in row if row.count(i) > 1)
            raise fail(path, number, f"index {twice} is given twice: keep one of them")
        rows.append(row)
        values.append(value)
    return csr_of_rows(rows, values, len(attributes))


def _split_sparse(body: str, path: str, line: int) -> tuple[list[str], list[str]]:
    """The indices (at most 18 digits) and the values of a sparse row."""
    indices: list[str] = []
    values: list[str] = []
    position, end = 0, len(body.rstrip())
    while position < end:
        match = _SPARSE_CELL.match(body, position)
        if match is None:
            break
        indices.append(match[1])
        values.append(unquote(match[2]))
        position = match.end()
    if position < end or body.rstrip().endswith(","):
        rest = body[position : position + 30].strip() or ","
        raise fail(path, line, f"{rest!r}; expected index value, as in {{3 1,7 0.5}}")
    return indices, values
