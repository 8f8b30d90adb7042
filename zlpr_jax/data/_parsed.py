"""From what a parser found to a checked data set, aligned with a schema."""

import dataclasses
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from zlpr_jax._errors import InputError
from zlpr_jax.data._open import fail, shorten
from zlpr_jax.data._records import Features, MultilabelData, Schema, width_of

# An index past these is a damaged file or a wrong format, not a data set: they bound
# what a header may claim before memory is allocated for it.
MAX_FEATURES = 2**27
MAX_LABELS = 2**22


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Parsed:
    """One file, as its format's parser returns it.

    Attributes:
        path: the file.
        lines: the line of each row, for errors.
        features: as in `MultilabelData`; may still hold NaN or infinity.
        feature_names: the file's names, or empty.
        labels: [N, C] CSR of ones; None: the file has no labels.
        label_names: the file's labels.
        label_lines: the line that declares each label column; None where labels are
            written row by row.
        feature_line: the line that declares the features; None as above.
        ids: the rows' ids, or None.
    """

    path: str
    lines: Sequence[int] | npt.NDArray[np.integer]
    features: Features
    feature_names: tuple[str, ...] = ()
    labels: csr_array | None
    label_names: tuple[str, ...] = ()
    label_lines: tuple[int, ...] | None = None
    feature_line: int | None = None
    ids: tuple[str, ...] | None = None


def float32(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """To float32, without a warning: `finish` reports what overflows."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def csr_of_rows(
    rows: Sequence[Sequence[int]],
    values: Sequence[Sequence[int | float]] | None,
    num_columns: int,
) -> csr_array:
    """A CSR array from the column indices of each row.

    Args:
        rows: the column indices of each row, in any order, none twice.
        values: the values at them; None: int8 ones.
        num_columns: the width.

    Returns:
        The array, indices sorted; float32, or int8 for ones; zeros left out.

    Examples:
        >>> csr_of_rows([[2, 0], []], None, 3).toarray().tolist()
        [[1, 0, 1], [0, 0, 0]]
    """
    indptr = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=indptr[1:])
    indices = np.fromiter(chain.from_iterable(rows), np.int64, int(indptr[-1]))
    data: npt.NDArray[Any]
    if values is None:
        data = np.ones(len(indices), dtype=np.int8)
    else:
        flat = chain.from_iterable(values)
        data = float32(np.fromiter(flat, np.float64, len(indices)))
    if len(indices) < 2**31:
        indptr = indptr.astype(np.int32)
        indices = indices.astype(np.int32)
    matrix = csr_array((data, indices, indptr), shape=(len(rows), num_columns))
    matrix.sort_indices()
    matrix.eliminate_zeros()
    return matrix


def labels_of_names(
    rows: Sequence[Sequence[str]], names: Sequence[str] | None = None
) -> tuple[csr_array, tuple[str, ...]]:
    """Label names of each row to a matrix; a name given twice counts once.

    Args:
        rows: the names of each row.
        names: all names in order; None: those that occur, sorted.

    Returns:
        The [N, C] matrix and the C names.
    """
    if names is None:
        names = sorted({name for row in rows for name in row})
    index = {name: i for i, name in enumerate(names)}
    indices = [sorted({index[name] for name in row}) for row in rows]
    return csr_of_rows(indices, None, len(names)), tuple(names)


def finish(
    parsed: Parsed, schema: Schema | None, labels_required: bool
) -> MultilabelData:
    """Check a parsed file and bring its columns into the schema's order.

    Args:
        parsed: what the parser found.
        schema: the training set's columns, or None.
        labels_required: whether a file without labels is an error.

    Returns:
        The data set.

    Raises:
        InputError: no rows, no labels, a value that is not finite, a label or a
            feature that the schema does not have.
    """
    path = parsed.path
    if len(parsed.lines) == 0:
        raise InputError(f"{path}: has no rows; expected at least one")
    _check_finite(parsed)
    labels, label_names = _align_labels(parsed, schema, labels_required)
    features, feature_names = _align_features(parsed, schema)
    ids = parsed.ids
    if ids is None:
        ids = tuple(str(row) for row in range(len(parsed.lines)))
    return MultilabelData(
        features=features,
        labels=labels,
        label_names=label_names,
        feature_names=feature_names,
        ids=ids,
        path=path,
        has_labels=parsed.labels is not None,
    )


def _check_finite(parsed: Parsed) -> None:
    features = parsed.features
    if isinstance(features, tuple):
        return
    values = features.data if isinstance(features, csr_array) else features
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    if isinstance(features, csr_array):
        position = int(np.argmax(bad))
        row = int(np.searchsorted(features.indptr, position, side="right")) - 1
        column = int(features.indices[position])
        value = features.data[position]
    else:
        row, column = (int(axis[0]) for axis in np.nonzero(bad))
        value = features[row, column]
    name = parsed.feature_names[column] if parsed.feature_names else str(column)
    raise fail(
        parsed.path,
        int(parsed.lines[row]),
        f"feature {name} is {value} in float32; expected a finite number: fill in "
        "missing values, or leave the row out",
    )


def _align_labels(
    parsed: Parsed, schema: Schema | None, labels_required: bool
) -> tuple[csr_array, tuple[str, ...]]:
    if parsed.labels is None:
        if labels_required or schema is None:
            raise InputError(
                f"{parsed.path}: has no labels; expected them here: add them, or name "
                "where they are with labels="
            )
        shape = (len(parsed.lines), len(schema.label_names))
        return csr_array(shape, dtype=np.int8), schema.label_names
    if schema is None:
        if not parsed.label_names:
            raise InputError(
                f"{parsed.path}: no row has a label; expected at least one label"
            )
        return parsed.labels, parsed.label_names
    if parsed.label_names == schema.label_names:
        return parsed.labels, schema.label_names

    index = {name: i for i, name in enumerate(schema.label_names)}
    matrix = parsed.labels.tocoo()
    unseen = [i for i, name in enumerate(parsed.label_names) if name not in index]
    if parsed.label_lines is None:
        # Names that no row uses (an svmlight header counts them) do no harm.
        hits = np.flatnonzero(np.isin(matrix.col, unseen))
        first = hits[np.argmin(matrix.row[hits])] if len(hits) else None
        unseen = [] if first is None else [int(matrix.col[first])]
        line = 0 if first is None else int(parsed.lines[int(matrix.row[first])])
    else:
        line = parsed.label_lines[unseen[0] if unseen else 0]
    if unseen:
        names = shorten(repr(parsed.label_names[i]) for i in unseen)
        raise fail(
            parsed.path,
            line,
            f"label {names} does not occur in the training set, whose labels are "
            f"{shorten(schema.label_names)}: mend the label, or train with it",
        )
    missing = [name for name in schema.label_names if name not in parsed.label_names]
    if parsed.label_lines is not None and missing:
        raise fail(
            parsed.path,
            line,
            f"label column {shorten(missing)} is absent; the training set has it: add "
            "the column",
        )
    order = np.array(
        [index.get(name, 0) for name in parsed.label_names], dtype=np.int64
    )
    aligned = csr_array(
        (matrix.data, (matrix.row, order[matrix.col])),
        shape=(len(parsed.lines), len(schema.label_names)),
    )
    aligned.sort_indices()
    return aligned, schema.label_names


def _align_features(
    parsed: Parsed, schema: Schema | None
) -> tuple[Features, tuple[str, ...]]:
    features = parsed.features
    if schema is None:
        return features, parsed.feature_names
    is_text = isinstance(features, tuple)
    if is_text != (schema.kind == "text"):
        raise fail(
            parsed.path,
            int(parsed.feature_line or parsed.lines[0]),
            f"has {'text' if is_text else 'numbers'} as features, the training set has "
            f"{'text' if schema.kind == 'text' else 'numbers'}: give the same kind",
        )
    if isinstance(features, tuple):
        return features, ()
    if parsed.feature_names and parsed.feature_names != schema.feature_names:
        features = _by_name(parsed, features, schema)
    else:
        features = _by_position(parsed, features, schema)
    if schema.kind == "dense" and isinstance(features, csr_array):
        features = features.toarray()
    elif schema.kind == "sparse" and isinstance(features, np.ndarray):
        features = csr_array(features)
    return features, schema.feature_names


def _by_name(
    parsed: Parsed, features: npt.NDArray[np.float32] | csr_array, schema: Schema
) -> npt.NDArray[np.float32] | csr_array:
    """The columns in the schema's order."""
    line = int(parsed.feature_line or parsed.lines[0])
    if not schema.feature_names:
        raise fail(
            parsed.path,
            line,
            "names its features, the training set numbers them: give "
            f"{schema.num_features} unnamed features",
        )
    index = {name: i for i, name in enumerate(schema.feature_names)}
    order = np.array([index.get(name, -1) for name in parsed.feature_names])
    extra = np.flatnonzero(order < 0)
    if len(extra):
        if parsed.feature_line is None and isinstance(features, csr_array):
            matrix = features.tocoo()
            hit = int(np.argmax(np.isin(matrix.col, extra)))
            extra = matrix.col[hit : hit + 1]
            line = int(parsed.lines[int(matrix.row[hit])])
        names = shorten(repr(parsed.feature_names[i]) for i in extra)
        raise fail(
            parsed.path,
            line,
            f"feature {names} does not occur in the training set, which has "
            f"{schema.num_features} features: remove it, or train with it",
        )
    if parsed.feature_line is not None and len(order) != len(index):
        given = set(parsed.feature_names)
        missing = [repr(name) for name in schema.feature_names if name not in given]
        raise fail(
            parsed.path,
            line,
            f"feature {shorten(missing)} of the training set is absent: add the column",
        )
    if isinstance(features, np.ndarray):
        return features[:, np.argsort(order)]
    matrix = features.tocoo()
    aligned = csr_array(
        (matrix.data, (matrix.row, order[matrix.col])),
        shape=(len(parsed.lines), schema.num_features),
    )
    aligned.sort_indices()
    return aligned


def _by_position(
    parsed: Parsed, features: npt.NDArray[np.float32] | csr_array, schema: Schema
) -> npt.NDArray[np.float32] | csr_array:
    """The columns as they are, their number checked."""
    width = width_of(features)
    if width == schema.num_features:
        return features
    rows = parsed.lines
    if isinstance(features, csr_array) and parsed.feature_line is None:
        # Without a header the width is only the largest index that occurs.
        if width < schema.num_features:
            return csr_array(
                (features.data, features.indices, features.indptr),
                shape=(len(parsed.lines), schema.num_features),
            )
        hit = int(np.argmax(features.indices >= schema.num_features))
        row = int(np.searchsorted(features.indptr, hit, side="right")) - 1
        raise fail(
            parsed.path,
            int(rows[row]),
            f"feature index {features.indices[hit]} is out of range: the training set "
            f"has {schema.num_features} features, counted from 0",
        )
    raise fail(
        parsed.path,
        int(parsed.feature_line or rows[0]),
        f"{width} features, the training set has {schema.num_features}: give the same "
        "columns",
    )
