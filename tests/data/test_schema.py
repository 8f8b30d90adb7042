"""Records, and a second file read against the schema of the first."""

import copy
import importlib.util
import json
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.sparse import csr_array

from zlpr_jax._errors import InputError
from zlpr_jax.data import MultilabelData, Schema, SparseRow, Tfidf, read, read_yeast


def data(features, names=()):
    return MultilabelData(
        features=features,
        labels=csr_array(np.array([[0, 1], [0, 0], [1, 1]], dtype=np.int8)),
        label_names=("a", "b"),
        feature_names=names,
        ids=("p", "q", "r"),
        path="x",
    )


def test_records():
    dense = np.array([[1, 0], [0, 0], [2, 3]], dtype=np.float32)
    for features in (dense, csr_array(dense), ("u", "v", "w")):
        source = data(features)
        assert len(source) == 3
        assert [row.id for row in source] == ["p", "q", "r"]
        assert [row.labels.tolist() for row in source] == [[1], [], [0, 1]]
        assert source[-1].labels.dtype == np.int32
        part = source.take([2, 0, 2])
        assert part.ids == ("r", "p", "r")
        assert part[0].labels.tolist() == [0, 1]
        assert part.schema == source.schema
        assert len(source.take([])) == 0
        assert isinstance(source, Sequence)
        assert source[1:].ids == ("q", "r")
        assert source[::-1][0].labels.tolist() == [0, 1]
        with pytest.raises(IndexError):
            source[3]
        with pytest.raises(IndexError):
            source.take([3])
        assert copy.deepcopy(source)[0].id == "p"
    row = data(csr_array(dense))[np.int64(2)].features
    assert isinstance(row, SparseRow)
    assert (row.indices.tolist(), row.values.tolist()) == ([0, 1], [2, 3])
    assert row.indices.dtype == np.int32


def test_schema_json():
    schema = data(np.zeros((3, 2), np.float32), ("x", "ü")).schema
    text = json.dumps(schema.to_json())
    assert Schema.from_json(json.loads(text)) == schema
    good = schema.to_json()
    for bad in (
        [],
        {**good, "extra": 1},
        {**good, "kind": "image"},
        {**good, "num_features": 3},
        {**good, "num_features": -1},
        {**good, "label_names": "ab"},
        {**good, "label_names": ["a", "a"]},
        {key: good[key] for key in good if key != "kind"},
    ):
        with pytest.raises(InputError, match=r"run/schema\.json: expected"):
            Schema.from_json(bad, source="run/schema.json")


@pytest.fixture
def fails(tmp_path):
    def fails(name, text, schema, *parts, **options):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            read(path, schema=schema, **options)
        for part in (str(path), *parts):
            assert part in str(caught.value), str(caught.value)

    return fails


DENSE = Schema(
    label_names=("a", "b"), feature_names=("x", "y"), num_features=2, kind="dense"
)
UNNAMED = Schema(label_names=("0", "1"), num_features=3, kind="sparse")


def test_a_file_comes_into_the_order_of_the_schema(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("b,y,a,x\n1,2,0,3\n")
    test = read(path, schema=DENSE)
    assert test.features.tolist() == [[3, 2]]
    assert test[0].labels.tolist() == [1]
    path = tmp_path / "x.jsonl"
    path.write_text('{"features": {"y": 2}, "labels": ["b"]}\n')
    test = read(path, schema=DENSE)
    assert test.features.tolist() == [[0, 2]]
    assert test.schema == DENSE
    path.write_text('{"features": [1, 2], "labels": ["b", "a", "a"]}\n')
    assert read(path, schema=DENSE)[0].labels.tolist() == [0, 1]
    assert read(path, schema=DENSE).features.tolist() == [[1, 2]]


def test_what_does_not_fit_the_schema(fails):
    head = "@relation r\n@attribute x real\n@attribute y real\n@attribute a {0,1}\n"
    fails("x.csv", "x,a,b\n1,0,1\n", DENSE, ":1:", "'y'", "absent")
    fails("x.csv", "x,y,z,a,b\n1,1,1,0,1\n", DENSE, ":1:", "'z'", "training set")
    fails("x.csv", "x,y,a\n1,1,0\n", DENSE, ":1:", "label column b", "absent")
    fails("x.csv", "x,y\n1,1\n", DENSE, "no labels")
    fails("x.csv", "x,y,c\n1,1,0\n", DENSE, ":1:", "'c'", labels=["c"])
    fails("x.csv", "x,y,t\n1,1,a\n2,2,c;b\n", DENSE, ":3:", "'c'", labels="t")
    fails("x.csv", "text,a,b\nhi,0,1\n", DENSE, "text", "numbers")
    fails("x.arff", head + "@data\n1,1,1\n", DENSE, ":4:", "label column b")
    fails(
        "x.arff",
        head + "@attribute c {0,1}\n@data\n1,1,1,0\n",
        DENSE,
        ":5:",
        "'c'",
        labels=-2,
    )
    fails("x.arff", head + "@data\n1,1,1\n", UNNAMED, "no labels")
    for rows, parts in (
        ('{"features": [1], "labels": []}', [":1:", "1 features", "has 2"]),
        ('{"features": {"z": 1}, "labels": []}', [":1:", "'z'"]),
        (
            '{"features": [1, 2], "labels": []}\n{"features": [1, 2], "labels": ["c"]}',
            [":2:", "'c'", "a, b"],
        ),
        ('{"text": "a", "labels": []}', [":1:", "text", "numbers"]),
    ):
        fails("x.jsonl", rows, DENSE, *parts)
    fails("x.svm", "0 1:1\n2 0:1\n", UNNAMED, ":2:", "'2'")
    fails("x.svm", "0 1:1\n1 3:1\n", UNNAMED, ":2:", "index 3", "has 3")
    fails("x.svm", "1 4 2\n1 3:1\n", UNNAMED, ":1:", "4 features")
    fails("x.jsonl", '{"features": {"z": 1}, "labels": []}', UNNAMED, "numbers them")


def test_prediction_needs_a_schema(tmp_path):
    with pytest.raises(InputError, match="schema="):
        read(tmp_path / "x.csv", labels_required=False)


def test_arff_xml_names_the_unseen_label(tmp_path):
    (tmp_path / "d.xml").write_text(
        '<labels><label name="a"/><label name="b"/><label name="new"/></labels>'
    )
    path = tmp_path / "d-test.arff"
    path.write_text(
        "@relation r\n@attribute x real\n@attribute y real\n@attribute a {0,1}\n"
        "@attribute b {0,1}\n@attribute new {0,1}\n@data\n1,2,0,1,0\n"
    )
    with pytest.raises(InputError, match="arff:6: label 'new' does not occur"):
        read(path, schema=DENSE)


def test_tfidf_is_scikit_learn_and_survives_json():
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = ["the red fish", "the blue fish swims", "a red bird", "blue bird sings", ""]
    tfidf = Tfidf.fit(texts, max_features=8, min_df=1)
    theirs = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=8)
    np.testing.assert_array_equal(
        tfidf.transform(texts).toarray(),
        theirs.fit_transform(texts).toarray().astype(np.float32),
    )
    again = Tfidf.from_json(json.loads(json.dumps(tfidf.to_json())))
    assert again == tfidf
    ours, back = tfidf.transform(texts), again.transform(texts)
    assert ours.dtype == np.float32
    for name in ("data", "indices", "indptr"):
        left, right = getattr(ours, name), getattr(back, name)
        assert left.tobytes() == right.tobytes()
    assert tfidf.transform([]).shape == (0, 8)


def test_bad_tfidf():
    with pytest.raises(InputError, match="lower min_df"):
        Tfidf.fit(["one", "two"])
    with pytest.raises(InputError, match="no term"):
        Tfidf.fit(["", "."])
    good = Tfidf.fit(["a red", "red"], min_df=1).to_json()
    for bad in (
        3,
        {},
        {**good, "idf": []},
        {**good, "idf": ["x"]},
        {**good, "vocabulary": [1]},
        {**good, "ngram_range": 3},
    ):
        with pytest.raises(InputError, match=r"^run/tfidf\.json: "):
            Tfidf.from_json(bad, source="run/tfidf.json")


def test_yeast_without_river(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "zlpr-jax\[train\]"'):
        read_yeast()


def test_yeast_of_another_release(monkeypatch, tmp_path):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(InputError, match="carries no yeast set"):
        read_yeast()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "yeast.csv.gz").write_bytes(b"other")
    with pytest.raises(InputError, match="SHA-256"):
        read_yeast()
