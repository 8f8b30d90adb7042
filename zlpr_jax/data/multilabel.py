"""Multi-label data sets from files: one `read` for every format.

| extension | format |
|---|---|
| .arff | ARFF of Mulan and MEKA, dense or sparse |
| .svm .svmlight .libsvm .txt | svmlight with comma-separated labels |
| .csv .tsv | a table with a header row; .tsv also without (GoEmotions) |
| .jsonl .ndjson | one JSON object a line |

Each also as .gz and .bz2. `docs/train.md` shows what they look like.
"""

import os
from pathlib import Path

from zlpr_jax._errors import InputError
from zlpr_jax.data._arff import parse_arff
from zlpr_jax.data._columns import LabelSpec, parse_label_spec
from zlpr_jax.data._jsonl import parse_jsonl, read_jsonl
from zlpr_jax.data._open import lines_of, read_text, unpacked_name
from zlpr_jax.data._parsed import finish
from zlpr_jax.data._records import (
    Features,
    Kind,
    MultilabelData,
    Record,
    Schema,
    SparseRow,
)
from zlpr_jax.data._svmlight import parse_svmlight
from zlpr_jax.data._tabular import parse_table

__all__ = [
    "Features",
    "Kind",
    "LabelSpec",
    "MultilabelData",
    "Record",
    "Schema",
    "SparseRow",
    "parse_label_spec",
    "read",
    "read_jsonl",
]

_SVMLIGHT = (".svm", ".svmlight", ".libsvm", ".txt")
_TABLES = {".csv": ",", ".tsv": "\t"}
_JSONL = (".jsonl", ".ndjson")
EXTENSIONS = (".arff", *_SVMLIGHT, *_TABLES, *_JSONL)


def read(
    path: str | os.PathLike[str],
    *,
    labels: LabelSpec = None,
    schema: Schema | None = None,
    labels_required: bool = True,
) -> MultilabelData:
    r"""Read a multi-label data set; the extension names the format.

    Args:
        path: the file.
        labels: which columns are labels, where the file does not say. ARFF and tables:
            the first n columns (n < 0: the last -n), a sequence of names, or a glob
            such as "Class*". ARFF also: the path of a Mulan XML file; None looks for
            one beside the file, then for MEKA's "-C n" in @relation. Tables also: the
            name of one column of label names, separated by the first of ; | , that
            occurs in it. TSV without header: the path of a labels.txt. svmlight and
            JSONL take None.
        schema: the columns of the training set, `train.schema`: labels and named
            features come in its order, and others are errors.
        labels_required: whether a file without labels is an error. False, for
            prediction, needs a schema; `has_labels` then says whether there were any.
            A file that has labels must still keep to the schema.

    Returns:
        The data set. Features are sparse where the file is (svmlight, sparse ARFF,
        JSONL objects), unless the schema says otherwise.

    Raises:
        InputError: the file is missing, malformed, empty, or does not fit the schema;
            the message names file, line, reason and remedy.

    Examples:
        >>> import pathlib, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name, "days.csv")
        >>> _ = path.write_text("warmth,wind,labels\n20,3,sun\n8,9,rain;storm\n")
        >>> data = read(path, labels="labels")
        >>> data.label_names, data.feature_names, data[1].labels.tolist()
        (('rain', 'storm', 'sun'), ('warmth', 'wind'), [0, 1])
        >>> _ = path.write_text("warmth,wind\n20,mild\n")
        >>> read(path, schema=data.schema, labels_required=False)
        Traceback (most recent call last):
            ...
        zlpr_jax._errors.InputError: ...days.csv:2: column 'wind' is 'mild'; ...
        >>> folder.cleanup()
    """
    if not labels_required and schema is None:
        raise InputError("labels_required=False needs schema=: the labels to predict")
    path = Path(path)
    extension = unpacked_name(path).suffix.lower()
    if extension not in EXTENSIONS:
        if not os.path.isfile(path):
            read_text(path)  # the more useful error
        raise InputError(
            f"{path}: extension {extension!r} is not known; expected one of "
            f"{', '.join(EXTENSIONS)}, or these with .gz or .bz2: rename the file"
        )
    if labels is not None and extension in (*_SVMLIGHT, *_JSONL):
        raise InputError(
            f"{path}: labels={labels!r} says which columns are labels; "
            f"{extension} files hold theirs in each row: leave it out"
        )
    text = read_text(path)
    if extension == ".arff":
        # For prediction the schema knows the labels, whether the file has them or not.
        spec = labels if labels_required else None
        parsed = parse_arff(text, path, spec, schema)
    elif extension in _TABLES:
        parsed = parse_table(
            text, path, _TABLES[extension], labels, schema, labels_required
        )
    elif extension in _JSONL:
        parsed = parse_jsonl(lines_of(text), str(path), labels_required)
    else:
        parsed = parse_svmlight(text, str(path), labels_required)
    return finish(parsed, schema, labels_required)
