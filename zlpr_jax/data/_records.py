"""What a reader returns: the data set, its rows and the schema that names its columns.

Features are one of three kinds. "dense" is an array, "sparse" a CSR array, "text" a
tuple of strings that something later (`Tfidf`, an encoder) turns into numbers.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from zlpr_jax._errors import InputError

Kind: TypeAlias = Literal["dense", "sparse", "text"]
Features: TypeAlias = npt.NDArray[np.float32] | csr_array | tuple[str, ...]

_KINDS: tuple[Kind, ...] = ("dense", "sparse", "text")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SparseRow:
    """The non-zero features of one row.

    Attributes:
        indices: int32 [K], increasing.
        values: float32 [K], finite.
    """

    indices: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """One row of a `MultilabelData`.

    Attributes:
        id: the row's name in the file; its position, from "0", where it has none.
        features: float32 [F], a `SparseRow`, or the text.
        labels: int32 [K], increasing indices into `label_names`.
    """

    id: str
    features: npt.NDArray[np.float32] | SparseRow | str
    labels: npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema:
    """What the columns of a data set mean: enough to read another file the same way.

    A run folder keeps it as JSON, so that `predict` reads a user's file against the
    training set.

    Attributes:
        label_names: the labels, in the order of the label indices.
        feature_names: the features in column order; empty for text and where the
            file does not name them (svmlight, JSONL lists).
        num_features: the number of columns; 0 for text.
        kind: "dense", "sparse" or "text".

    Examples:
        >>> schema = Schema(label_names=("a", "b"), kind="text")
        >>> Schema.from_json(schema.to_json()) == schema
        True
    """

    label_names: tuple[str, ...]
    feature_names: tuple[str, ...] = ()
    num_features: int = 0
    kind: Kind

    def to_json(self) -> dict[str, Any]:
        """The schema as a dict that `json.dumps` takes."""
        return {
            "kind": self.kind,
            "label_names": list(self.label_names),
            "feature_names": list(self.feature_names),
            "num_features": self.num_features,
        }

    @classmethod
    def from_json(cls, value: object, *, source: str = "schema") -> "Schema":
        """The schema that `to_json` wrote.

        Args:
            value: what `json.load` returned.
            source: where it came from, for the error.

        Returns:
            The schema.

        Raises:
            InputError: a field is missing, unknown or of the wrong type.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, Mapping) or set(value) != fields:
            got = ", ".join(map(str, value)) if isinstance(value, Mapping) else value
            raise InputError(
                f"{source}: expected a JSON object with the keys "
                f"{', '.join(sorted(fields))}, got {got!r}: write it again with "
                "Schema.to_json."
            )
        count = value["num_features"]
        names = value["feature_names"]
        if (
            value["kind"] not in _KINDS
            or type(count) is not int
            or count < 0
            or not _is_names(value["label_names"])
            or not _is_names(names)
            or (names and len(names) != count)
        ):
            raise InputError(
                f"{source}: expected 'kind' one of {', '.join(_KINDS)}, lists of "
                "distinct strings for 'label_names' and 'feature_names', and "
                "'num_features' their number: write it again with Schema.to_json."
            )
        return cls(
            label_names=tuple(value["label_names"]),
            feature_names=tuple(names),
            num_features=count,
            kind=value["kind"],
        )


def _is_names(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(name, str) for name in value)
        and len(set(value)) == len(value)
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MultilabelData(Sequence[Record]):
    """A multi-label data set in memory, a sequence: `data[i]` is row i as a `Record`.

    Attributes:
        features: float32 [N, F] array, float32 [N, F] CSR, or N texts. All finite.
        labels: int8 [N, C] CSR of ones; all zero where `has_labels` is False.
        label_names: C names.
        feature_names: F names, or empty: see `Schema`.
        ids: N names of rows; "0", "1", ... where the file has none.
        path: the file it was read from, for messages.
        has_labels: False for a file without labels, read for prediction.

    Examples:
        >>> data = MultilabelData(
        ...     features=np.eye(2, dtype=np.float32),
        ...     labels=csr_array(np.array([[0, 1], [1, 1]], dtype=np.int8)),
        ...     label_names=("rain", "wind"),
        ...     feature_names=("x", "y"),
        ...     ids=("0", "1"),
        ...     path="example",
        ... )
        >>> data.cardinality, data[1].labels.tolist(), data.take([1]).ids
        (1.5, [0, 1], ('1',))
    """

    features: Features
    labels: csr_array
    label_names: tuple[str, ...]
    feature_names: tuple[str, ...] = ()
    ids: tuple[str, ...]
    path: str
    has_labels: bool = True

    @property
    def kind(self) -> Kind:
        """What the features are: "dense", "sparse" or "text"."""
        if isinstance(self.features, tuple):
            return "text"
        return "dense" if isinstance(self.features, np.ndarray) else "sparse"

    @property
    def num_features(self) -> int:
        """The number of feature columns; 0 for text."""
        return 0 if isinstance(self.features, tuple) else width_of(self.features)

    @property
    def num_labels(self) -> int:
        """The number of labels, C."""
        return len(self.label_names)

    @property
    def cardinality(self) -> float:
        """The mean number of labels of a row."""
        return self.labels.nnz / max(len(self), 1)

    @property
    def schema(self) -> Schema:
        """The names of the columns: `read(test, schema=train.schema)`."""
        return Schema(
            label_names=self.label_names,
            feature_names=self.feature_names,
            num_features=self.num_features,
            kind=self.kind,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Record]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> "MultilabelData": ...

    def __getitem__(self, index: int | np.integer | slice) -> "Record | MultilabelData":
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        row = int(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} in {self.path}")
        row %= len(self)
        return Record(
            id=self.ids[row],
            features=self._features_of(row),
            labels=_row(self.labels, row)[0].astype(np.int32),
        )

    def _features_of(self, row: int) -> npt.NDArray[np.float32] | SparseRow | str:
        if isinstance(self.features, csr_array):
            indices, values = _row(self.features, row)
            return SparseRow(indices=indices.astype(np.int32), values=values)
        return self.features[row]

    def take(
        self, indices: Sequence[int] | npt.NDArray[np.integer]
    ) -> "MultilabelData":
        """The rows at `indices`, in that order.

        Args:
            indices: row numbers; a repeated one is repeated.

        Returns:
            The data set of those rows, under the same names.

        Raises:
            IndexError: an index is not a row.
        """
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        features: Features
        if isinstance(self.features, tuple):
            features = tuple(map(self.features.__getitem__, rows.tolist()))
        else:
            features = self.features[rows]
        return dataclasses.replace(
            self,
            features=features,
            labels=self.labels[rows],
            ids=tuple(map(self.ids.__getitem__, rows.tolist())),
        )


def width_of(features: npt.NDArray[np.float32] | csr_array) -> int:
    """The number of columns."""
    # scipy's untyped source reads as if a shape could be None.
    return int(features.shape[1])  # pyright: ignore[reportOptionalSubscript]


def _row(matrix: csr_array, row: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    # Through indptr: scipy's own row slicing builds a matrix, some 50 us a row.
    start, end = matrix.indptr[row], matrix.indptr[row + 1]
    return matrix.indices[start:end], matrix.data[start:end]
