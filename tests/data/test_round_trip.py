"""Any data set, written in each format, comes back equal."""

import bz2
import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zlpr_jax.data import read

CASES = settings(max_examples=40, deadline=None, derandomize=True)

NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Z")), min_size=1
).filter(lambda name: name not in ("id", "text", "?") and not name.isdecimal())


@st.composite
def tables(draw):
    """Features [N, F], labels [N, C] with each label used, and F + C distinct names."""
    n, f, c = (draw(st.integers(1, 5)) for _ in range(3))
    features = draw(hnp.arrays(np.float32, (n, f), elements=st.just(0) | NUMBERS))
    labels = draw(hnp.arrays(np.bool_, (n, c)))
    labels[0] = True
    names = draw(st.lists(NAMES, min_size=f + c, max_size=f + c, unique=True))
    return features, labels, tuple(names[:f]), tuple(names[f:])


def check(name, text, table, **options):
    features, labels, feature_names, label_names = table
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        pack = {".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)
        path.write_bytes(pack(text.encode()))
        data = read(path, **options)
        again = read(path, schema=data.schema, **options)
    for read_back in (data, again):
        got = read_back.features
        got = got if isinstance(got, np.ndarray) else got.toarray()
        order = [read_back.label_names.index(label) for label in label_names]
        np.testing.assert_array_equal(got, features)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(read_back.labels.toarray()[:, order], labels)
        assert read_back.feature_names == feature_names
        for i, record in enumerate(read_back):
            assert record.id == str(i)
            assert sorted(order.index(k) for k in record.labels) == list(
                np.flatnonzero(labels[i])
            )


def quote(name):
    return "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"


def header(table, first):
    features, labels = (
        [f"@attribute {quote(name)} {kind}" for name in names]
        for names, kind in ((table[2], "numeric"), (table[3], "{0, 1}"))
    )
    relation = f"@relation 'r: -C {len(labels) if first else -len(labels)}'"
    both = labels + features if first else features + labels
    return "\n".join([relation, "% a comment", "", *both, "@data", ""])


@CASES
@given(tables(), st.booleans())
def test_dense_arff(table, first):
    features, labels = table[0], table[1].astype(int)
    rows = []
    for x, y in zip(features.tolist(), labels.tolist(), strict=True):
        cells = [*y, *x] if first else [*x, *y]
        rows.append(", ".join(map(repr, cells)))
    check("x.arff.gz", header(table, first) + "\n\n".join(rows), table)


@CASES
@given(tables(), st.booleans())
def test_sparse_arff(table, first):
    parts = (table[1], table[0]) if first else (table[0], table[1])
    rows = []
    for row in np.concatenate([part.astype(np.float64) for part in parts], 1):
        is_label = np.arange(len(row)) < table[1].shape[1]
        is_label = is_label if first else is_label[::-1]
        cells = [
            f"{i} {int(row[i]) if is_label[i] else repr(float(row[i]))}"
            for i in np.flatnonzero(row)
        ]
        rows.append("{" + ",".join(cells) + "}")
    check("x.arff.bz2", header(table, first) + "\r\n".join(rows), table)


@CASES
@given(tables())
def test_csv_of_columns(table):
    features, labels, feature_names, label_names = table
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow([*feature_names, *label_names])
    for x, y in zip(features.tolist(), labels.tolist(), strict=True):
        writer.writerow([*map(repr, x), *map(int, y)])
    check("x.csv", file.getvalue(), table, labels=-len(label_names))
    check("x.csv", file.getvalue(), table, labels=label_names)


@CASES
@given(tables())
def test_svmlight_with_header_as_scikit_learn_reads_it(table):
    from sklearn.datasets import load_svmlight_file

    features, labels = table[:2]
    rows = []
    for x, y in zip(features.tolist(), labels, strict=True):
        tokens = [f"{i}:{v!r}" for i, v in enumerate(x) if v]
        rows.append(",".join(map(str, np.flatnonzero(y))) + " " + " ".join(tokens))
    body = "\n".join(rows) + "\n"
    shape = (len(features), features.shape[1], labels.shape[1])
    names = tuple(str(i) for i in range(labels.shape[1]))
    head = " ".join(map(str, shape)) + "\n"
    check("x.svm", head + body, (features, labels, (), names))
    if all(line.strip() for line in rows):
        x, y = load_svmlight_file(
            io.BytesIO(body.encode()),
            multilabel=True,
            zero_based=True,
            n_features=shape[1],
        )
        np.testing.assert_array_equal(x.toarray().astype(np.float32), features)
        assert [sorted(map(int, row)) for row in y] == [
            list(np.flatnonzero(row)) for row in labels
        ]


@CASES
@given(tables(), st.booleans())
def test_jsonl(table, named):
    features, labels, feature_names, label_names = table
    rows = [
        {
            "features": dict(zip(feature_names, x, strict=True)) if named else x,
            "labels": [name for name, on in zip(label_names, y, strict=True) if on],
        }
        for x, y in zip(features.tolist(), labels, strict=True)
    ]
    if named:  # JSON objects have no order: names come back sorted
        order = sorted(range(len(feature_names)), key=feature_names.__getitem__)
        features = features[:, order]
        feature_names = tuple(feature_names[i] for i in order)
    names = feature_names if named else ()
    text = "\n".join(map(json.dumps, rows))
    check("x.jsonl", text, (features, labels, names, label_names))


@CASES
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0")),
            st.sets(st.sampled_from(["a", "b c", "né"])),
        ),
        min_size=1,
    ).filter(lambda rows: any(names for _, names in rows))
)
def test_texts_in_jsonl_and_csv(rows):
    lines = [json.dumps({"text": t, "labels": sorted(names)}) for t, names in rows]
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerow(["tags", "text"])
    writer.writerows([";".join(names), text] for text, names in rows)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "x.jsonl").write_text("\n".join(lines))
        Path(folder, "x.csv").write_bytes(file.getvalue().encode())
        for data in (
            read(Path(folder, "x.jsonl")),
            read(Path(folder, "x.csv"), labels="tags"),
        ):
            assert data.features == tuple(text for text, _ in rows)
            for record, (_, names) in zip(data, rows, strict=True):
                assert {data.label_names[k] for k in record.labels} == names
