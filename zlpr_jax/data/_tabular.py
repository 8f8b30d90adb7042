"""CSV and TSV with a header row, and TSV without one (GoEmotions).

Columns beside the labels are features. A column "id" names the rows, a column "text"
is the text; every other cell is a number.
"""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from zlpr_jax._errors import InputError
from zlpr_jax.data._columns import (
    LabelSpec,
    check_unique,
    is_glob,
    label_cell,
    select_labels,
)
from zlpr_jax.data._open import fail, lines_of, read_text, shorten
from zlpr_jax.data._parsed import Parsed, csr_of_rows, float32, labels_of_names
from zlpr_jax.data._records import Schema

_SEPARATORS = (";", "|", ",")


def parse_table(
    text: str,
    path: Path,
    delimiter: str,
    labels: LabelSpec,
    schema: Schema | None,
    labels_required: bool = True,
) -> Parsed:
    """Parse a table, with a header row or without.

    Args:
        text: the contents.
        path: the file; `labels.txt` may stand beside a TSV without header.
        delimiter: "," or a tab.
        labels: which columns are labels; see `zlpr_jax.data.multilabel.read`.
        schema: the training set's columns, or None.
        labels_required: False: label columns may be absent.

    Returns:
        Dense features, or texts.

    Raises:
        InputError: a line is malformed, or the labels are not known.
    """
    if delimiter == "\t" and _is_headerless(text, labels, schema):
        return _parse_headerless(text, path, labels, schema)
    lines, rows = _rows(text, path, delimiter)
    names = [name.strip() for name in rows.pop(0)]
    line = lines.pop(0)
    _check_names(names, path, line)
    if not rows:
        raise InputError(f"{path}: no rows below the header; expected at least one")
    for number, row in zip(lines, rows, strict=True):
        if len(row) != len(names):
            raise fail(
                str(path),
                number,
                f"{len(row)} cells; expected {len(names)}, one for each column of the "
                "header",
            )

    if not labels_required and labels not in names:
        # The schema knows the 0/1 columns; only a column of names has to be said.
        labels = None
    in_cells = isinstance(labels, str) and not is_glob(labels)
    if isinstance(labels, os.PathLike):
        raise InputError(f"{path}: labels={labels}; expected names of columns")
    if labels is not None:
        chosen = select_labels(names, labels, str(path), line)
    elif schema is not None:
        known = set(schema.label_names)
        chosen = [i for i, name in enumerate(names) if name in known]
    else:
        raise fail(
            str(path),
            line,
            f"which columns are labels is not known; the columns are {shorten(names)}: "
            "name them with labels= (--labels): names or a glob of 0/1 columns, or one "
            "column of label names such as a;b",
        )
    matrix, label_names, label_lines = None, (), None
    if chosen and in_cells:
        column = [row[chosen[0]] for row in rows]
        if all(cell.strip() in ("0", "1") for cell in column):
            raise fail(
                str(path),
                line,
                f"label column {labels!r} holds only 0 and 1; expected label names: "
                f"for a 0/1 column give a list, [{labels!r}]",
            )
        matrix, label_names = labels_of_names(_split_labels(column))
    elif chosen:
        matrix = _zero_one(rows, chosen, names, lines, str(path))
        label_names = tuple(names[i] for i in chosen)
        label_lines = (line,) * len(chosen)

    others = [i for i in range(len(names)) if i not in set(chosen)]
    ids = None
    if "id" in names and names.index("id") in others:
        ids = tuple(row[names.index("id")].strip() for row in rows)
        others.remove(names.index("id"))
    if not others:
        raise fail(str(path), line, "no feature beside the labels; expected a column")
    features = tuple(row[others[0]] for row in rows)
    feature_names: tuple[str, ...] = ()
    if [names[i] for i in others] != ["text"]:
        if "text" in (names[i] for i in others):
            raise fail(
                str(path),
                line,
                "a column 'text' beside other features, "
                f"{shorten(names[i] for i in others if names[i] != 'text')}: keep "
                "either",
            )
        features = _numbers(rows, others, names, lines, str(path))
        feature_names = tuple(names[i] for i in others)
    return Parsed(
        path=str(path),
        lines=lines,
        features=features,
        feature_names=feature_names,
        feature_line=line,
        labels=matrix,
        label_names=label_names,
        label_lines=label_lines,
        ids=ids,
    )


def _rows(text: str, path: Path, delimiter: str) -> tuple[list[int], list[list[str]]]:
    """The rows that are not blank, and the line on which each begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines: list[int] = []
    rows: list[list[str]] = []
    start = 1
    try:
        for row in reader:
            if row:
                lines.append(start)
                rows.append(row)
            start = reader.line_num + 1
    except csv.Error as error:
        raise fail(
            str(path),
            start,
            f'malformed row ({error}): quote a cell as "a ""b"" c"; JSONL takes '
            "text of any length",
        ) from None
    return lines, rows


def _check_names(names: Sequence[str], path: Path, line: int) -> None:
    for i, name in enumerate(names):
        if not name:
            raise fail(
                str(path),
                line,
                f"column {i + 1} has no name (pandas writes an index so, without "
                "index=False): name every column",
            )
    check_unique(names, "column", str(path), line)
    if all(_is_number(name) for name in names):
        raise fail(
            str(path),
            line,
            f"the first row is {shorten(names, 4)}; expected a header of column names: "
            "add one",
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(
    rows: Sequence[Sequence[str]],
    columns: Sequence[int],
    names: Sequence[str],
    lines: Sequence[int],
    path: str,
) -> npt.NDArray[np.float32]:
    table = np.empty((len(rows), len(columns)), dtype=np.float64)
    for r, row in enumerate(rows):
        cells = [row[i] for i in columns]
        try:
            table[r] = [float(cell) for cell in cells]
            # Python reads 1_0 as 10; no table means that.
            bad = any("_" in cell for cell in cells)
        except ValueError:
            bad = True
        if bad:
            i = next(i for i in columns if not _is_number(row[i]) or "_" in row[i])
            missing = "" if row[i].strip() else "a missing value, "
            raise fail(
                path,
                lines[r],
                f"column {names[i]!r} is {missing}{row[i]!r}; expected a number: mend "
                "the cell, or name the column 'text' or 'id' if it is that",
            )
    return float32(table)


def _zero_one(
    rows: Sequence[Sequence[str]],
    columns: Sequence[int],
    names: Sequence[str],
    lines: Sequence[int],
    path: str,
) -> csr_array:
    indices: list[list[int]] = []
    for r, row in enumerate(rows):
        found: list[int] = []
        for k, i in enumerate(columns):
            try:
                if label_cell(row[i]):
                    found.append(k)
            except InputError as error:
                raise fail(
                    path,
                    lines[r],
                    f"label column {names[i]!r} is {error}: is it a feature? name the "
                    "labels with labels=",
                ) from None
        indices.append(found)
    return csr_of_rows(indices, None, len(columns))


def _split_labels(column: Sequence[str]) -> list[list[str]]:
    """The label names in each cell.

    The separator is the first of ; | , that occurs in the column.

    Examples:
        >>> _split_labels(["a; b,c", "", "d"])
        [['a', 'b,c'], [], ['d']]
    """
    separator = next(
        (s for s in _SEPARATORS if any(s in cell for cell in column)), _SEPARATORS[0]
    )
    return [
        [name.strip() for name in cell.split(separator) if name.strip()]
        for cell in column
    ]


def _is_headerless(text: str, labels: LabelSpec, schema: Schema | None) -> bool:
    """A TSV has a header if it names a column "text" or a feature, or labels= does."""
    if isinstance(labels, os.PathLike):
        return True
    if labels is not None:
        return isinstance(labels, str) and labels.endswith(".txt")
    if schema is not None and schema.kind != "text":
        return False
    first = text.lstrip("\r\n").partition("\n")[0]
    return "text" not in (cell.strip() for cell in first.split("\t"))


def _parse_headerless(
    text: str, path: Path, labels: LabelSpec, schema: Schema | None
) -> Parsed:
    """Text, comma-separated labels (indices or names), id; the last two optional."""
    names = _label_file(path, labels)
    if names is None and schema is not None:
        names = schema.label_names
    if names is None:
        raise InputError(
            f"{path}: has no header with a column 'text', and no labels.txt beside it "
            "names the labels of a TSV without header: add either"
        )
    index = {name: i for i, name in enumerate(names)}
    numbers: list[int] = []
    texts: list[str] = []
    ids: list[str] = []
    rows: list[list[int]] = []
    width = 0
    # Without csv: a bare quote in this format is text.
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        cells = line.split("\t")
        width = width or len(cells)
        if len(cells) != width or width > 3 or (width == 1 and schema is None):
            raise fail(
                str(path),
                number,
                f"{len(cells)} cells; expected text<TAB>labels or text<TAB>labels<TAB>"
                "id, the same in every row",
            )
        numbers.append(number)
        texts.append(cells[0])
        ids.append(cells[2].strip() if width == 3 else str(len(ids)))
        if width > 1:
            rows.append(_indices(cells[1], names, index, str(path), number))
    return Parsed(
        path=str(path),
        lines=numbers,
        features=tuple(texts),
        labels=csr_of_rows(rows, None, len(names)) if width > 1 else None,
        label_names=tuple(names),
        ids=tuple(ids),
    )


def _label_file(path: Path, labels: LabelSpec) -> tuple[str, ...] | None:
    if isinstance(labels, str | os.PathLike):
        source = Path(labels)
    else:
        source = path.with_name("labels.txt")
        if not source.is_file():
            return None
    names = [name.strip() for name in lines_of(read_text(source))]
    while names and not names[-1]:
        names.pop()
    for number, name in enumerate(names, start=1):
        if not name:
            raise fail(str(source), number, "is blank; expected one label name a line")
    check_unique(names, "label", str(source), 1)
    return tuple(names)


def _indices(
    cell: str, names: Sequence[str], index: dict[str, int], path: str, line: int
) -> list[int]:
    found: set[int] = set()
    for token in cell.split(","):
        token = token.strip()
        if token in index:
            found.add(index[token])
        elif token.isdecimal() and int(token) < len(names):
            found.add(int(token))
        elif token:
            raise fail(
                path,
                line,
                f"label {token!r}; expected an index from 0 to {len(names) - 1} or a "
                f"name of {shorten(names)}",
            )
    return sorted(found)
