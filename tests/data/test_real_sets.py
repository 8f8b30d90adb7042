"""The real sets of ../shared/data, against the counts their sources publish."""

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from zlpr_jax.data import MultilabelData, Tfidf, read, read_yeast

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"

# features are those after one-hot coding: flags has 4 nominal attributes of 6, 4, 10
# and 8 values; genbase loses its protein id.
SETS = [
    ("ml_bibtex/bibtex-train.arff", 4880, 1836, 159, "sparse"),
    ("ml_bibtex/bibtex-test.arff", 2515, 1836, 159, "sparse"),
    ("ml_cal500/cal500.arff", 502, 68, 174, "dense"),
    ("ml_corel5k/Corel5k-train-sparse.arff", 4500, 499, 374, "sparse"),
    ("ml_corel5k/Corel5k-test-sparse.arff", 500, 499, 374, "sparse"),
    ("ml_delicious/delicious-train.arff", 12920, 500, 983, "sparse"),
    ("ml_delicious/delicious-test.arff", 3185, 500, 983, "sparse"),
    ("ml_emotions/emotions-train.arff", 391, 72, 6, "dense"),
    ("ml_emotions/emotions-test.arff", 202, 72, 6, "dense"),
    ("ml_enron/enron-train.arff", 1123, 1001, 53, "sparse"),
    ("ml_enron/enron-test.arff", 579, 1001, 53, "sparse"),
    ("ml_flags/flags-train.arff", 129, 15 + 28, 7, "dense"),
    ("ml_flags/flags-test.arff", 65, 15 + 28, 7, "dense"),
    ("ml_genbase/genbase-train.arff", 463, 1185, 27, "dense"),
    ("ml_genbase/genbase-test.arff", 199, 1185, 27, "dense"),
    ("ml_goemotions/train.tsv", 43410, 0, 28, "text"),
    ("ml_goemotions/dev.tsv", 5426, 0, 28, "text"),
    ("ml_goemotions/test.tsv", 5427, 0, 28, "text"),
    ("ml_imdb_meka/Imdb.arff.bz2", 120919, 1001, 28, "sparse"),
    ("ml_medical/medical-train.arff", 333, 1449, 45, "sparse"),
    ("ml_medical/medical-test.arff", 645, 1449, 45, "sparse"),
    ("ml_rcv1/rcv1subset1500.orig.arff.gz", 6000, 500, 101, "sparse"),
    ("ml_rcv1/rcv1subset2500.orig.arff.gz", 6000, 500, 101, "sparse"),
    ("ml_scene/scene-train.arff", 1211, 294, 6, "dense"),
    ("ml_scene/scene-test.arff", 1196, 294, 6, "dense"),
    ("ml_yeast/yeast-train.arff", 1500, 103, 14, "dense"),
    ("ml_yeast/yeast-test.arff", 917, 103, 14, "dense"),
]
CARDINALITY = {  # of all parts of a set together
    "bibtex": 2.40,
    "cal500": 26.0,
    "corel5k": 3.52,
    "delicious": 19.0,
    "emotions": 1.87,
    "enron": 3.38,
    "flags": 3.39,
    "genbase": 1.25,
    "goemotions": 1.18,
    "imdb_meka": 2.00,
    "medical": 1.25,
    "rcv1": 2.757,
    "scene": 1.07,
    "yeast": 4.24,
}

pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the real sets are not at {SHARED}"
)


def load(name: str) -> MultilabelData:
    return read(SHARED / name, labels="Class*" if "rcv1" in name else None)


@pytest.mark.parametrize("name", sorted({name.split("/")[0] for name, *_ in SETS}))
def test_counts(name):
    parts = []
    for path, rows, features, labels, kind in SETS:
        if path.split("/")[0] != name:
            continue
        data = load(path)
        counts = (len(data), data.num_features, data.num_labels, data.kind)
        assert counts == (rows, features, labels, kind)
        assert data.labels.shape == (rows, labels)
        assert data.has_labels
        parts.append(data)
    total = sum(part.labels.nnz for part in parts) / sum(map(len, parts))
    assert total == pytest.approx(CARDINALITY[name.removeprefix("ml_")], abs=0.0501)
    if name != "ml_rcv1":  # two samples, over different words
        assert all(part.schema == parts[0].schema for part in parts)


def test_test_part_reads_against_the_schema_of_the_training_part():
    train = load("ml_genbase/genbase-train.arff")
    test = read(SHARED / "ml_genbase/genbase-test.arff", schema=train.schema)
    assert test.schema == train.schema
    assert test.ids[0] == "Q9XEL8"


def test_escaped_and_plain_names_stay_apart():
    names = load("ml_delicious/delicious-test.arff").label_names
    assert "TAG_musica" in names
    assert r"TAG_m\'usica" in names


def test_sparse_values_and_labels_are_those_of_the_line():
    # {8 0.049949,37 0.055733,...,482 0.035319,500 1,514 1,515 1,533 1}
    row = load("ml_rcv1/rcv1subset1500.orig.arff.gz")[0]
    assert row.features.indices.tolist() == [
        8, 37, 80, 84, 107, 146, 248, 295, 305, 398, 482,
    ]  # fmt: skip
    assert row.features.values[0] == np.float32(0.049949)
    assert row.labels.tolist() == [0, 14, 15, 33]


def test_medical_labels_come_from_the_xml_not_from_the_stale_relation():
    # @relation says -C 45, but the labels were moved to the end.
    data = load("ml_medical/medical-train.arff")
    assert data.feature_names[:2] == ("-", "/")
    assert data.labels.nnz == 418


def test_river_yeast_is_mulan_yeast():
    for ours, name in zip(read_yeast(), ("train", "test"), strict=True):
        theirs = load(f"ml_yeast/yeast-{name}.arff")
        assert ours.schema == theirs.schema
        np.testing.assert_array_equal(ours.features, theirs.features)
        np.testing.assert_array_equal(ours.labels.toarray(), theirs.labels.toarray())


def test_goemotions_text_to_tfidf():
    data = load("ml_goemotions/dev.tsv")
    assert data.label_names[0] == "admiration"
    assert data[0].id == data.ids[0]
    tfidf = Tfidf.fit(data.features, max_features=500)
    matrix = tfidf.transform(data.features)
    assert isinstance(matrix, csr_array)
    assert matrix.shape == (5426, 500)
