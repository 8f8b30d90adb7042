"""svmlight, CSV, TSV and JSONL: the forms they take and what is refused."""

import gzip
import io
import subprocess
import sys

import numpy as np
import pytest

from zlpr_jax._errors import InputError
from zlpr_jax.data import Schema, read, read_jsonl

TEXTS = Schema(label_names=("a", "b"), kind="text")


def put(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def fails(path, *parts, **options):
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in (path.name, *parts):
        assert part in message, message


def test_svmlight_without_header_is_used_as_it_stands(tmp_path):
    path = put(tmp_path, "x.libsvm", "# by hand\n1,3 2:0.5 1:2 # note\n\n4:1\n")
    data = read(path)
    assert data.features.toarray().tolist() == [[0, 2, 0.5, 0, 0], [0, 0, 0, 0, 1]]
    assert data.label_names == ("0", "1", "2", "3")
    assert data.labels.toarray().tolist() == [[0, 1, 0, 1], [0, 0, 0, 0]]
    # A narrower file fits the schema; unlabelled rows are fine to predict.
    narrow = put(tmp_path, "y.svm", "0:1\n")
    test = read(narrow, schema=data.schema, labels_required=False)
    assert test.features.shape == (1, 5)
    assert not test.has_labels


def test_svmlight_blank_rows_under_a_header_are_rows(tmp_path):
    data = read(put(tmp_path, "x.txt", "3 2 2\n0 1:1\n\n1 0:1\n"))
    assert len(data) == 3
    assert data[1].labels.size == data[1].features.values.size == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0 1:1\n1 2:x\n", [":2:", "'2:x'", "index:value"]),
        ("0 1:1 2\n", [":1:", "'2'"]),
        ("0 1:1_0\n", [":1:", "'1:1_0'"]),
        ("+1.5 1:1\n", [":1:", "'+1.5'", "indices"]),
        ("-1 1:1\n", [":1:", "label -1", "out of range"]),
        ("99999999999 1:1\n", [":1:", "label 99999999999"]),
        ("0 -1:1\n", [":1:", "index -1"]),
        ("0 99999999999999:1\n", [":1:", "index 99999999999999"]),
        ("0 1:1 1:2\n", [":1:", "feature 1", "twice"]),
        ("0 1:nan\n", [":1:", "feature 1 is nan"]),
        ("0 qid:3 1:2\n", [":1:", "'qid:3'"]),
        ("1000000000000 1000000000000 3\n0 1:1\n", [":1:", "mend the header"]),
        ("1000000000000 4 3\n0 1:1\n", [":1:", "1000000000000 rows", "has 1"]),
        ("1 2 2\n0 2:1\n", [":2:", "index 2", "0 to 1"]),
        ("1 2 2\n2 1:1\n", [":2:", "label 2", "0 to 1"]),
        ("0\n", ["no row has a feature"]),
        ("1:2\n", ["no row has a label"]),
    ],
)
def test_bad_svmlight(tmp_path, text, parts):
    fails(put(tmp_path, "x.svm", text), *parts)


def test_csv_forms(tmp_path):
    path = put(tmp_path, "x.csv", 'id,x,tags\nu,1,"a|b"\nv,2,\n')
    data = read(path, labels="tags")
    assert data.ids == ("u", "v")
    assert data.labels.toarray().tolist() == [[1, 1], [0, 0]]
    # The label column may be missing, or present, when predicting.
    for text in ("x,id\n3,w\n", "tags,x,id\na,3,w\n"):
        other = read(
            put(tmp_path, "y.csv", text),
            labels="tags",
            schema=data.schema,
            labels_required=False,
        )
        assert other[0].id == "w"
        assert other.features.tolist() == [[3]]
        assert other.has_labels == text.startswith("tags")
    columns = read(put(tmp_path, "z.csv", "text,y_1,y_2\nhi,0,1\n"), labels="y_*")
    assert columns.kind == "text"
    assert columns.label_names == ("y_1", "y_2")
    again = read(
        put(tmp_path, "w.tsv", "y_2\ttext\ty_1\n1\thi\t0\n"), schema=columns.schema
    )
    assert again[0].labels.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "labels", "parts"),
    [
        ("x,y\n1,0\n", None, [":1:", "x, y", "labels="]),
        ("x,y\n1,0\n", "tags", [":1:", "'tags'", "absent", "x, y"]),
        ("x,y\n1,0\n", ["z"], [":1:", "'z'", "absent"]),
        ("x,y\n1,0\n", "y", [":1:", "['y']"]),
        ("x,y\n1,0\n2\n", ["y"], [":3:", "1 cells", "expected 2"]),
        ("x,y\n1,0\n,1\n", ["y"], [":3:", "'x'", "missing"]),
        ('x,y\n"1\n",0\nb,1\n', ["y"], [":4:", "'x'", "'b'"]),
        ("x,y\nnan,0\n", ["y"], [":2:", "feature x is nan"]),
        ("x,y\n1,2\n", ["y"], [":2:", "'y'", "'2'", "0 or 1"]),
        ("x,x,y\n1,1,1\n", ["y"], [":1:", "'x'", "twice"]),
        (",x,y\n0,1,1\n", ["y"], [":1:", "index=False"]),
        ("1,2,0\n3,4,1\n", -1, [":1:", "header"]),
        ('x,y\n"1,0\n', ["y"], [":2:", "malformed"]),
        ("text,x,y\na,1,0\n", ["y"], [":1:", "'text'", "either"]),
        ("x,y\n", ["y"], ["no rows"]),
        ("id,y\n3,1\n", ["y"], ["no feature"]),
    ],
)
def test_bad_csv(tmp_path, text, labels, parts):
    fails(put(tmp_path, "x.csv", text), *parts, labels=labels)


def test_headerless_tsv(tmp_path):
    path = put(tmp_path, "x.tsv", 'so "good\t0,2\tr1\nmeh\tsad\tr2\nwell\t\tr3\n')
    fails(path, "labels.txt")
    names = put(tmp_path, "names.txt", "joy\nsad\nlove")
    data = read(path, labels=names)
    names.rename(tmp_path / "labels.txt")
    for same in (read(path), read(path, schema=data.schema)):
        assert same.features == data.features == ('so "good', "meh", "well")
        assert [row.labels.tolist() for row in same] == [[0, 2], [1], []]
        assert same.ids == ("r1", "r2", "r3")
    bare = put(tmp_path, "y.tsv", "one\ntwo\n")
    test = read(bare, schema=data.schema, labels_required=False)
    assert test.features == ("one", "two")
    assert not test.has_labels
    fails(put(tmp_path, "z.tsv", "a\t1\tr\nb\t3\tr\n"), ":2:", "'3'", "0 to 2")
    fails(put(tmp_path, "z.tsv", "a\t1\tr\nb\t1\n"), ":2:", "2 cells")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"text": "a", "labels": ["x"]}\n{"text"\n', [":2:", "not a JSON object"]),
        ("[1]\n", [":1:", "a list", "JSON object"]),
        ("[" * 100_000 + "\n", [":1:", "not a JSON object"]),
        ('{"text": "a"}\n', [":1:", 'no "labels"']),
        ('{"labels": []}\n', [":1:", '"text" or "features"']),
        ('{"text": "a", "features": [1], "labels": []}\n', [":1:", "either"]),
        ('{"text": 1, "labels": []}\n', [":1:", '"text" is 1', "a string"]),
        ('{"text": "a", "labels": "x"}\n', [":1:", '"labels"', "list of names"]),
        ('{"text": "a", "labels": [1]}\n', [":1:", '"labels"', "list of names"]),
        ('{"text": "a", "labels": [], "txt": 1}\n', [":1:", "'txt'", "unknown"]),
        ('{"text": "a", "text": "b", "labels": []}\n', [":1:", "'text'", "twice"]),
        ('{"text": "a", "labels": [], "id": [1]}\n', [":1:", '"id"']),
        ('{"features": [1, NaN], "labels": []}\n', [":1:", "NaN"]),
        ('{"features": [1, "2"], "labels": []}\n', [":1:", "feature 1", "'2'"]),
        ('{"features": [true], "labels": []}\n', [":1:", "True"]),
        ('{"features": {"u": null}, "labels": []}\n', [":1:", "feature u"]),
        ('{"features": 3, "labels": []}\n', [":1:", '"features" is 3']),
        ('{"features": [], "labels": []}\n', [":1:", "empty"]),
        ('{"features": [1e300], "labels": ["x"]}\n', [":1:", "feature 0 is inf"]),
        ('{"features": [1' + "0" * 400 + '], "labels": []}\n', [":1:", "too large"]),
        (
            '{"features": [1], "labels": []}\n{"features": [1, 2], "labels": []}\n',
            [":2:", "2 features", "line 1 has 1"],
        ),
        (
            '{"features": [1], "labels": []}\n{"text": "a", "labels": []}\n',
            [":2:", "text", "line 1 has a list"],
        ),
        ('{"text": "a", "labels": []}\n', ["no row has a label"]),
    ],
)
def test_bad_jsonl(tmp_path, text, parts):
    fails(put(tmp_path, "x.jsonl", text), *parts)


def test_jsonl_stream():
    stream = io.StringIO('{"text": "u", "id": 7}\n\n{"text": "v", "labels": ["b"]}\n')
    data = read_jsonl(stream, schema=TEXTS, labels_required=False)
    assert data.ids == ("7", "1")
    assert data.path == "<stdin>"
    assert not data.has_labels
    with pytest.raises(InputError, match="<stdin>:1: feature"):
        read_jsonl(io.StringIO('{"features": ["x"], "labels": []}'))
    with pytest.raises(InputError, match="<pipe>: not UTF-8"):
        read_jsonl(
            io.TextIOWrapper(io.BytesIO(b'{"text": "\xff"}'), encoding="utf-8"),
            name="<pipe>",
        )
    with pytest.raises(InputError, match="no rows"):
        read_jsonl(io.StringIO("\n"))


def test_bad_files(tmp_path):
    fails(tmp_path / "gone.csv", "no such file")
    fails(tmp_path / "gone.xyz", "no such file")
    (tmp_path / "dir.csv").mkdir()
    fails(tmp_path / "dir.csv", "is a directory")
    fails(put(tmp_path, "x.xlsx", b"PK"), "'.xlsx'", ".arff", ".jsonl", ".gz")
    fails(put(tmp_path, "x.csv", b" \n"), "is empty")
    fails(put(tmp_path, "x.jsonl", b'{}\n{"text": "\xe9"}'), ":2:", "0xe9", "UTF-8")
    packed = gzip.compress(np.random.default_rng(0).bytes(5000))
    fails(put(tmp_path, "x.csv.gz", packed[:2000]), "cut off", labels="y")
    fails(put(tmp_path, "x.csv.gz", b"x,y\n1,0\n"), "damaged")
    fails(put(tmp_path, "x.csv.bz2", b"x,y\n1,0\n"), "damaged")
    fails(put(tmp_path, "x.csv.bz2", b"BZh9"), "cut off")
    fails(put(tmp_path, "x.svm", b"0 1:1\n"), "leave it out", labels="y")


def test_byte_order_mark(tmp_path):
    data = read(put(tmp_path, "x.csv", b"\xef\xbb\xbfx,y\r\n1,1\r\n"), labels=["y"])
    assert data.feature_names == ("x",)


def test_jax_is_not_imported():
    code = (
        "import sys, zlpr_jax.data\n"
        "print([m for m in ('jax', 'flax', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
