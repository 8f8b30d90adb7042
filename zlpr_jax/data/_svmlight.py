"""svmlight with comma-separated labels, the extreme-classification format.

    2 5 3                 rows, features, labels: optional
    0,2 1:0.5 4:1         labels, then index:value
     3:2.5                no label

Indices are used as they stand: feature k is column k and label k is label "k", counted
from 0. A file that counts from 1 keeps an empty column 0; nothing is shifted, so that a
training file and a test file cannot be shifted differently.
"""

import re

from zlpr_jax._errors import InputError
from zlpr_jax.data._open import fail, lines_of
from zlpr_jax.data._parsed import MAX_FEATURES, MAX_LABELS, Parsed, csr_of_rows

_HEADER = re.compile(r"\s*(\d{1,18})\s+(\d{1,18})\s+(\d{1,18})\s*")


def parse_svmlight(text: str, path: str, labels_required: bool = True) -> Parsed:
    r"""Parse an svmlight file.

    Args:
        text: the contents.
        path: its name, for errors.
        labels_required: whether a file in which no row has a label is an error.

    Returns:
        Sparse features without names; labels named by their index.

    Raises:
        InputError: a line is malformed, or an index out of range.

    Examples:
        >>> parsed = parse_svmlight("2 5 3\n0,2 1:0.5 4:1\n 3:2.5\n", "x.svm")
        >>> parsed.features.shape, parsed.label_names
        ((2, 5), ('0', '1', '2'))
    """
    lines = lines_of(text)
    first = next((i for i, line in enumerate(lines) if line.split("#")[0].strip()), 0)
    header = _HEADER.fullmatch(lines[first].split("#")[0]) if lines else None
    counts = None
    if header is not None:
        counts = _check_header(header, path, first + 1)
        while lines and not lines[-1].strip() and len(lines) - first - 1 > counts[0]:
            lines.pop()
        first += 1
    max_features = counts[1] if counts else MAX_FEATURES
    max_labels = counts[2] if counts else MAX_LABELS

    numbers: list[int] = []
    labels: list[list[int]] = []
    indices: list[list[int]] = []
    values: list[list[float]] = []
    for number, line in enumerate(lines[first:], start=first + 1):
        content, hash_, _ = line.partition("#")
        # Under a header a blank line is a row without labels and features.
        if not content.strip() and (hash_ or counts is None):
            continue
        tokens = content.split()
        row_labels: list[int] = []
        if tokens and ":" not in tokens[0]:
            row_labels = _parse_labels(tokens.pop(0), max_labels, path, number)
        row_indices, row_values = _parse_features(tokens, max_features, path, number)
        numbers.append(number)
        labels.append(row_labels)
        indices.append(row_indices)
        values.append(row_values)

    if counts is not None and counts[0] != len(numbers):
        raise fail(
            path,
            first,
            f"the header counts {counts[0]} rows, the file has {len(numbers)}: it is "
            "cut off, or the header is wrong",
        )
    num_features, num_labels = (
        (counts[1], counts[2])
        if counts
        else (
            max((max(row) for row in indices if row), default=-1) + 1,
            max((max(row) for row in labels if row), default=-1) + 1,
        )
    )
    if num_features == 0 and numbers:
        raise InputError(f"{path}: no row has a feature; expected index:value")
    # A file to predict and one whose rows all lack labels look the same.
    has_labels = any(labels)
    if labels_required and not has_labels:
        raise InputError(f"{path}: no row has a label; expected at least one label")
    return Parsed(
        path=path,
        lines=numbers,
        features=csr_of_rows(indices, values, num_features),
        labels=csr_of_rows(labels, None, num_labels) if has_labels else None,
        label_names=tuple(str(label) for label in range(num_labels)),
        feature_line=first if counts else None,
    )


def _check_header(header: re.Match[str], path: str, line: int) -> tuple[int, int, int]:
    rows, features, labels = (int(count) for count in header.groups())
    if features > MAX_FEATURES or labels > MAX_LABELS:
        raise fail(
            path,
            line,
            f"the header counts {features} features and {labels} labels; expected at "
            f"most {MAX_FEATURES} and {MAX_LABELS}: mend the header",
        )
    return rows, features, labels


def _parse_labels(token: str, limit: int, path: str, line: int) -> list[int]:
    try:
        labels = sorted({int(label) for label in token.split(",")})
    except ValueError:
        labels = []
    if not labels or "_" in token:
        raise fail(
            path,
            line,
            f"labels {token!r}; expected indices as in 0,3,7 (none: begin the line "
            "with the features)",
        )
    for label in (labels[0], labels[-1]):
        if not 0 <= label < limit:
            raise fail(
                path,
                line,
                f"label {label} is out of range; expected 0 to {limit - 1}: labels "
                "are counted from 0",
            )
    return labels


def _parse_features(
    tokens: list[str], limit: int, path: str, line: int
) -> tuple[list[int], list[float]]:
    indices: list[int] = []
    values: list[float] = []
    for token in tokens:
        index, _, value = token.partition(":")
        try:
            if "_" in token:
                raise ValueError
            indices.append(int(index))
            values.append(float(value))
        except ValueError:
            raise fail(
                path, line, f"{token!r}; expected index:value as in 12:0.5"
            ) from None
    if indices and not (min(indices) >= 0 and max(indices) < limit):
        wrong = next(index for index in indices if not 0 <= index < limit)
        raise fail(
            path,
            line,
            f"feature index {wrong} is out of range; expected 0 to {limit - 1}: "
            "indices are counted from 0",
        )
    if len(set(indices)) != len(indices):
        twice = next(index for index in indices if indices.count(index) > 1)
        raise fail(path, line, f"feature {twice} is given twice: keep one of them")
    return indices, values
