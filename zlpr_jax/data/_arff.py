"""ARFF of Mulan and MEKA: dense rows and sparse rows, `{index value, ...}`.

Numeric attributes and nominal {0,1} are features as they stand. Another nominal of two
values is one 0/1 feature, "name=second"; of more values, one feature each,
"name=value". A string attribute is the text when it is the only feature. Row ids: an
attribute named "id", or else the nominal or string attribute in which no value occurs
twice (see `_IDENTIFIER`).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array

from zlpr_jax._errors import InputError
from zlpr_jax.data._arff_header import Attribute, parse_header
from zlpr_jax.data._arff_rows import dense_table, sparse_table
from zlpr_jax.data._columns import LABEL_PAIRS, LabelSpec, check_unique
from zlpr_jax.data._mulan import find_labels
from zlpr_jax.data._open import fail, lines_of
from zlpr_jax.data._parsed import Parsed, float32
from zlpr_jax.data._records import Schema

# A nominal of more values than this, each in one row at most, is a row id (genbase
# begins with a protein id): as a feature it would only be memorised.
_IDENTIFIER = 50
# One-hot columns of one attribute: beyond it the nominal is no category.
_MAX_VALUES = 1000

Table: TypeAlias = npt.NDArray[np.float64] | csr_array


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Column:
    """A feature or label: the attribute's code, or whether it equals `code`."""

    name: str
    attribute: int
    code: int | None = None


def parse_arff(
    text: str, path: Path, labels: LabelSpec, schema: Schema | None
) -> Parsed:
    """Parse an ARFF file.

    Args:
        text: the contents.
        path: the file: errors name it, and Mulan's XML stands beside it.
        labels: which attributes are labels; see `zlpr_jax.data.multilabel.read`.
        schema: the training set's columns, or None.

    Returns:
        Sparse features if the rows are sparse, else dense ones, or texts. Labels in
        the order of the attributes.

    Raises:
        InputError: a line is malformed, or the labels are not known.
    """
    lines = lines_of(text)
    header = parse_header(lines, str(path))
    attributes = list(header.attributes)
    names = [attribute.name for attribute in attributes]
    chosen = find_labels(
        path, header.relation, names, [a.line for a in attributes], labels, schema
    )
    others = [i for i in range(len(names)) if i not in set(chosen)]
    for i in others:
        if names[i] == "id":
            attributes[i] = dataclasses.replace(attributes[i], kind="string", values=())

    numbers = [
        number
        for number, line in enumerate(lines[header.end :], start=header.end + 1)
        if line.strip() and not line.lstrip().startswith("%")
    ]
    if not numbers:
        raise InputError(f"{path}: no rows after @data; expected at least one")
    sparse = lines[numbers[0] - 1].lstrip().startswith("{")
    strings: dict[int, list[str]] = {}
    if sparse:
        table: Table = sparse_table(lines, numbers, attributes, str(path))
    else:
        table, strings = dense_table(lines, numbers, attributes, str(path))

    identifier = _identifier(attributes, others, table, strings, schema, str(path))
    others = [i for i in others if i != identifier]
    text_only = len(others) == 1 and others[0] in strings
    columns = (
        []
        if text_only
        else [column for i in others for column in _columns(attributes[i], i, path)]
    )
    if not columns and not text_only:
        raise InputError(f"{path}: no feature beside the labels; expected one or more")
    check_unique([c.name for c in columns], "feature", str(path), attributes[0].line)
    return Parsed(
        path=str(path),
        lines=numbers,
        features=tuple(strings[others[0]]) if text_only else _float32(table, columns),
        feature_names=tuple(column.name for column in columns),
        feature_line=attributes[others[0]].line,
        labels=_labels(table, attributes, chosen, numbers, str(path)),
        label_names=tuple(names[i] for i in chosen),
        label_lines=tuple(attributes[i].line for i in chosen),
        ids=_ids(attributes, identifier, table, strings),
    )


def _columns(attribute: Attribute, i: int, path: Path) -> list[_Column]:
    """The features that one attribute becomes."""
    name, values = attribute.name, attribute.values
    if attribute.kind == "string":
        raise fail(
            str(path),
            attribute.line,
            f"string attribute {name!r} beside other features; expected it alone (then "
            "it is the text) or as row id with distinct values: remove it",
        )
    if attribute.kind == "numeric" or values in (("0", "1"), ("0",)):
        return [_Column(name=name, attribute=i)]
    if set(values) <= {"0", "1"}:
        return [_Column(name=name, attribute=i, code=values.index("1"))]
    if len(values) > _MAX_VALUES:
        raise fail(
            str(path),
            attribute.line,
            f"nominal attribute {name!r} has {len(values)} values; expected at most "
            f"{_MAX_VALUES}: name it 'id' if it identifies rows, or remove it",
        )
    if len(values) == 2:
        return [_Column(name=f"{name}={values[1]}", attribute=i)]
    return [
        _Column(name=f"{name}={value}", attribute=i, code=code)
        for code, value in enumerate(values)
    ]


def _take(table: Table, columns: Sequence[_Column]) -> Table:
    """The columns, in float64."""
    attributes = [column.attribute for column in columns]
    coded = [(k, c.code) for k, c in enumerate(columns) if c.code is not None]
    if isinstance(table, np.ndarray):
        dense = table[:, attributes]
        for k, code in coded:
            dense[:, k] = dense[:, k] == code
        return dense
    if not coded:
        return table[:, attributes]
    matrix = table[:, attributes].tocoo()
    codes = np.full(len(columns), -1)
    codes[[k for k, _ in coded]] = [code for _, code in coded]
    data = np.where(
        codes[matrix.col] < 0, matrix.data, matrix.data == codes[matrix.col]
    )
    # A code of 0 is what rows omit: those rows hold it.
    num_rows = len(table.indptr) - 1
    extra = [
        (np.setdiff1d(np.arange(num_rows), matrix.row[matrix.col == k]), k)
        for k, code in coded
        if code == 0
    ]
    rows = np.concatenate([matrix.row, *(rows for rows, _ in extra)])
    cols = np.concatenate([matrix.col, *(np.full(len(r), k) for r, k in extra)])
    ones = np.ones(len(rows) - len(data), dtype=data.dtype)
    merged = csr_array(
        coo_array((np.concatenate([data, ones]), (rows, cols)), shape=matrix.shape)
    )
    merged.sort_indices()
    merged.eliminate_zeros()
    return merged


def _float32(
    table: Table, columns: Sequence[_Column]
) -> npt.NDArray[np.float32] | csr_array:
    taken = _take(table, columns)
    if isinstance(taken, np.ndarray):
        return float32(taken)
    return csr_array(taken, dtype=np.float32)


def _labels(
    table: Table,
    attributes: Sequence[Attribute],
    chosen: Sequence[int],
    numbers: Sequence[int],
    path: str,
) -> csr_array | None:
    if not chosen:
        return None
    columns = []
    for i in chosen:
        attribute = attributes[i]
        lower = tuple(value.lower() for value in attribute.values)
        pair = next((p for p in LABEL_PAIRS if set(lower) <= set(p) and lower), None)
        if attribute.kind != "numeric" and pair is None:
            shown = ",".join(attribute.values[:8]) or attribute.kind
            raise fail(
                path,
                attribute.line,
                f"label {attribute.name!r} is {{{shown}}}; expected {{0,1}}: convert "
                "it, or name other labels with labels=",
            )
        code = None
        if pair is not None and lower != pair:
            code = lower.index(pair[1]) if pair[1] in lower else len(lower)
        columns.append(_Column(name=attribute.name, attribute=i, code=code))
    taken = _take(table, columns)
    matrix = csr_array(taken) if isinstance(taken, np.ndarray) else taken
    wrong = np.flatnonzero(matrix.data != 1)
    if len(wrong):
        row = int(np.searchsorted(matrix.indptr, wrong[0], side="right")) - 1
        name = columns[int(matrix.indices[wrong[0]])].name
        raise fail(
            path,
            numbers[row],
            f"label {name!r} is {matrix.data[wrong[0]]:g}; expected 0 or 1: is it a "
            "feature? name the labels with labels=",
        )
    return csr_array(matrix, dtype=np.int8)


def _identifier(
    attributes: Sequence[Attribute],
    others: Sequence[int],
    table: Table,
    strings: dict[int, list[str]],
    schema: Schema | None,
    path: str,
) -> int | None:
    """The attribute that names the rows, if there is one."""
    features = set(schema.feature_names) if schema is not None else set()
    for i in others:
        if attributes[i].name == "id":
            return i
    found = []
    for i in others:
        attribute = attributes[i]
        if attribute.kind == "string" and len(others) > 1:
            distinct = len(set(strings[i])) == len(strings[i])
        elif attribute.kind == "nominal" and len(attribute.values) > _IDENTIFIER:
            if schema is not None and schema.kind != "text":
                # A short file to predict says little: do as in training.
                distinct = features.isdisjoint(
                    f"{attribute.name}={value}" for value in attribute.values
                )
            else:
                codes = table[:, [i]]
                if isinstance(codes, csr_array):
                    codes = codes.toarray()
                distinct = len(np.unique(codes)) == len(codes)
        else:
            continue
        if distinct:
            found.append(i)
    if len(found) > 1:
        raise fail(
            path,
            attributes[found[1]].line,
            f"attributes {attributes[found[0]].name!r} and "
            f"{attributes[found[1]].name!r} both identify rows; expected one: "
            "remove the other",
        )
    return found[0] if found else None


def _ids(
    attributes: Sequence[Attribute],
    identifier: int | None,
    table: Table,
    strings: dict[int, list[str]],
) -> tuple[str, ...] | None:
    if identifier is None:
        return None
    if identifier in strings:
        return tuple(strings[identifier])
    codes = table[:, [identifier]]
    if isinstance(codes, csr_array):
        codes = codes.toarray()
    return tuple(attributes[identifier].values[int(code)] for code in codes[:, 0])
