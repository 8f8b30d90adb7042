"""JSON Lines: one object a line.

    {"id": "a", "text": "a fine day", "labels": ["weather"]}
    {"features": [0.5, 1, 0], "labels": []}
    {"features": {"height": 1.8}, "labels": ["tall", "person"]}

A file holds one kind of them. "id" is optional; features left out of an object are 0.
"""

import json
from collections.abc import Iterable
from typing import Any, TextIO

import numpy as np

from zlpr_jax._errors import InputError
from zlpr_jax.data._open import fail, shorten
from zlpr_jax.data._parsed import (
    Parsed,
    csr_of_rows,
    finish,
    float32,
    labels_of_names,
)
from zlpr_jax.data._records import Features, MultilabelData, Schema

_KEYS = ("id", "text", "features", "labels")


def parse_jsonl(
    lines: Iterable[str], path: str, labels_required: bool = True
) -> Parsed:
    """Parse JSON Lines.

    Args:
        lines: the lines; blank ones are skipped.
        path: their name, for errors.
        labels_required: whether every object must have "labels".

    Returns:
        Texts, a dense array (lists) or sparse features (objects). Labels, and named
        features, are in sorted order.

    Raises:
        InputError: a line is malformed, or of another kind than the first.

    Examples:
        >>> parsed = parse_jsonl(['{"text": "hello", "labels": ["b", "a"]}'], "x")
        >>> parsed.features, parsed.label_names
        (('hello',), ('a', 'b'))
    """
    numbers: list[int] = []
    ids: list[str] = []
    labels: list[list[str]] = []
    rows: list[Any] = []
    unlabelled = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _object(line, path, number)
        if "labels" in record:
            labels.append(_labels(record["labels"], path, number))
        elif labels_required:
            raise fail(path, number, 'no "labels"; expected a list of names, or []')
        else:
            unlabelled += 1
        ids.append(_id(record.get("id", str(len(ids))), path, number))
        row = _features(record, path, number)
        if rows and type(row) is not type(rows[0]):
            raise fail(
                path,
                number,
                f"{_kind(row)}, where line {numbers[0]} has {_kind(rows[0])}: give one "
                "kind in a file",
            )
        if rows and isinstance(row, list) and len(row) != len(rows[0]):
            raise fail(
                path,
                number,
                f"{len(row)} features, where line {numbers[0]} has "
                f"{len(rows[0])}: give every row the same number",
            )
        rows.append(row)
        numbers.append(number)
    if not rows:
        raise InputError(f"{path}: has no rows; expected one JSON object a line")

    features, names = _table(rows)
    matrix, label_names = (None, ()) if unlabelled else labels_of_names(labels)
    return Parsed(
        path=path,
        lines=numbers,
        features=features,
        feature_names=names,
        labels=matrix,
        label_names=label_names,
        ids=tuple(ids),
    )


def read_jsonl(
    stream: TextIO | Iterable[str],
    *,
    name: str = "<stdin>",
    schema: Schema | None = None,
    labels_required: bool = True,
) -> MultilabelData:
    """Read JSON Lines from an open text stream, as `read` does from a file.

    Args:
        stream: lines of text, such as `sys.stdin`.
        name: what errors call the stream.
        schema: the training set's columns, or None.
        labels_required: whether every object must have "labels"; False needs a
            `schema`.

    Returns:
        The data set; if an object has no "labels", `has_labels` is False.

    Raises:
        InputError: as `read`.

    Examples:
        >>> schema = Schema(label_names=("a", "b"), kind="text")
        >>> data = read_jsonl(
        ...     ['{"text": "hello"}'], schema=schema, labels_required=False
        ... )
        >>> data[0].features, data.has_labels
        ('hello', False)
    """
    try:
        parsed = parse_jsonl(stream, name, labels_required)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}: not UTF-8 ({error.reason}): convert it, for example with iconv"
        ) from None
    return finish(parsed, schema, labels_required)


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} is given twice")
    return record


def _object(line: str, path: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(
            line, parse_constant=_reject_constant, object_pairs_hook=_unique
        )
    except (ValueError, RecursionError) as error:
        raise fail(path, number, f"not a JSON object on one line: {error}") from None
    if not isinstance(record, dict):
        raise fail(
            path,
            number,
            f'{_kind(record)}; expected a JSON object such as {{"text": ..., "labels": '
            "[...]}",
        )
    unknown = [key for key in record if key not in _KEYS]
    if unknown:
        raise fail(
            path,
            number,
            f"unknown key {shorten(map(repr, unknown))}; expected {', '.join(_KEYS)}: "
            "remove it",
        )
    return record


def _labels(value: Any, path: str, number: int) -> list[str]:
    if not isinstance(value, list) or not all(
        isinstance(name, str) and name for name in value
    ):
        raise fail(
            path,
            number,
            f'"labels" is {_short(value)}; expected a list of names, as in ["a", "b"]',
        )
    return value


def _id(value: Any, path: str, number: int) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise fail(path, number, f'"id" is {_short(value)}; expected a string')
    return str(value)


def _features(
    record: dict[str, Any], path: str, number: int
) -> str | list[int | float] | dict[str, int | float]:
    if ("text" in record) == ("features" in record):
        raise fail(path, number, 'expected either "text" or "features"')
    if "text" in record:
        if not isinstance(record["text"], str):
            raise fail(
                path, number, f'"text" is {_short(record["text"])}; expected a string'
            )
        return record["text"]
    value = record["features"]
    if not isinstance(value, list | dict):
        raise fail(
            path,
            number,
            f'"features" is {_short(value)}; expected a list of numbers or an object '
            "of name: number",
        )
    if isinstance(value, list) and not value:
        raise fail(path, number, '"features" is empty; expected numbers')
    for name, entry in value.items() if isinstance(value, dict) else enumerate(value):
        if type(entry) is not float and type(entry) is not int:
            raise fail(
                path, number, f"feature {name} is {_short(entry)}; expected a number"
            )
        # An integer in JSON has no bound; float() raises on it.
        if type(entry) is int and abs(entry) > 2**200:
            raise fail(path, number, f"feature {name} is too large for float32")
    return value


def _table(rows: list[Any]) -> tuple[Features, tuple[str, ...]]:
    if isinstance(rows[0], str):
        return tuple(rows), ()
    if isinstance(rows[0], list):
        return float32(np.array(rows, dtype=np.float64)), ()
    names = tuple(sorted({name for row in rows for name in row}))
    index = {name: i for i, name in enumerate(names)}
    indices = [[index[name] for name in row] for row in rows]
    values = [list(row.values()) for row in rows]
    return csr_of_rows(indices, values, len(names)), names


def _kind(value: object) -> str:
    names = {str: "text", list: "a list", dict: "an object", bool: "a truth value"}
    return names.get(type(value), "null" if value is None else "a number")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
