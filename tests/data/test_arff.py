"""ARFF: shapes of the format, where labels come from, and what is refused."""

import re

import numpy as np
import pytest

from zlpr_jax._errors import InputError
from zlpr_jax.data import read

HEAD = """@relation r
@attribute x numeric
@attribute colour {red,'light blue',green}
@attribute a {0,1}
@attribute b {0,1}
@data
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="days.arff"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def fails(path, *parts, **options):
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in (path.name, *parts):
        assert part in message
    return message


def test_nominal_attributes_become_columns(write):
    dense = read(write(HEAD + "1.5,'light blue',1,0\n-2,red,0,1\n"), labels=["a", "b"])
    assert dense.feature_names == (
        "x", "colour=red", "colour=light blue", "colour=green",
    )  # fmt: skip
    assert dense.features.tolist() == [[1.5, 0, 1, 0], [-2, 1, 0, 0]]
    # In a sparse row the omitted value of a nominal is its first one.
    sparse = read(
        write(HEAD + "{0 1.5,1 'light blue',2 1}\n{3 1, 0 -2}\n"), labels=["a", "b"]
    )
    np.testing.assert_array_equal(sparse.features.toarray(), dense.features)
    np.testing.assert_array_equal(sparse.labels.toarray(), dense.labels.toarray())
    again = read(
        write(HEAD + "{0 1.5,1 'light blue',2 1}\n{3 1, 0 -2}\n"), schema=dense.schema
    )
    np.testing.assert_array_equal(again.features, dense.features)


@pytest.mark.parametrize(
    ("values", "cells", "expected"),
    [
        ("{0,1}", ["0", "1"], [0, 1]),
        ("{1,0}", ["0", "1"], [0, 1]),
        ("{NO,YES}", ["NO", "YES"], [0, 1]),
        ("{true,false}", ["false", "true"], [0, 1]),
        ("numeric", ["0", "1.0"], [0, 1]),
    ],
)
def test_label_values(write, values, cells, expected):
    head = f"@relation r\n@attribute x real\n@attribute y {values}\n@data\n"
    rows = "\n".join(f"1,{cell}" for cell in cells)
    assert read(write(head + rows), labels=-1).labels.toarray()[:, 0].tolist() == (
        expected
    )


def test_sparse_rows_omit_the_first_value(write):
    head = "@relation r\n@attribute x {1,0}\n@attribute y {1,0}\n@data\n"
    data = read(write(head + "{}\n{0 0,1 0}\n"), labels=["y"])
    assert data.features.toarray().tolist() == [[1], [0]]
    assert data.labels.toarray().tolist() == [[1], [0]]


def test_where_labels_come_from(write, tmp_path):
    rows = HEAD + "1,red,1,0\n"
    assert read(write(rows), labels=-2).label_names == ("a", "b")
    assert read(write(rows), labels="[ab]").label_names == ("a", "b")
    meka = rows.replace("@relation r", "@relation 'days: -C -1'")
    assert read(write(meka)).label_names == ("b",)
    # The XML wins over -C, and the longest stem over a shorter one.
    write('<labels><label name="a"/></labels>', "days.xml")
    write('<labels><label name="b"/><label name="a"/></labels>', "days-wet.xml")
    assert read(write(meka)).label_names == ("a",)
    assert read(write(meka, "days-train.arff")).label_names == ("a",)
    assert read(write(meka, "days-wet-train.arff")).label_names == ("a", "b")
    assert read(
        write(rows, "other.arff"), labels=str(tmp_path / "days.xml")
    ).label_names == ("a",)
    assert read(
        write(rows, "other.arff"), labels=tmp_path / "days.xml"
    ).label_names == ("a",)
    fails(write(rows, "daysx.arff"), "not known", "XML", "-C n", "labels=")


def test_ids_and_text(write):
    head = "@relation r\n@attribute id string\n@attribute t string\n"
    data = read(
        write(head + "@attribute y {0,1}\n@data\nr7,'it\\'s, well',1\n"), labels=["y"]
    )
    assert data.kind == "text"
    assert (data[0].id, data[0].features) == ("r7", "it's, well")
    many = ",".join(f"p{i}" for i in range(60))
    head = f"@relation r\n@attribute p {{{many}}}\n@attribute x real\n"
    data = read(
        write(head + "@attribute y {0,1}\n@data\np3,1,1\np9,2,0\n"), labels=["y"]
    )
    assert data.ids == ("p3", "p9")
    assert data.feature_names == ("x",)
    # Values that repeat are categories, also in a later file in which they do not.
    train = read(
        write(head + "@attribute y {0,1}\n@data\np3,1,1\np3,2,0\n"), labels=["y"]
    )
    assert train.num_features == 61
    one = write(head + "@data\np9,2\n")
    test = read(one, schema=train.schema, labels_required=False)
    assert test.num_features == 61
    assert not test.has_labels


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ("1,red,1\n", [":7:", "3 values", "expected 4"]),
        ("1,red,1,0\n\n2,blue,1,0\n", [":9:", "'colour'", "'blue'", "light blue"]),
        ("1,red,1,0\n?,red,1,0\n", [":8:", "missing", "'x'"]),
        ("one,red,1,0\n", [":7:", "'one'", "a number"]),
        ("1_0,red,1,0\n", [":7:", "'1_0'"]),
        ("nan,red,1,0\n", [":7:", "feature x is nan", "finite"]),
        ("1e60,red,1,0\n", [":7:", "feature x is inf"]),
        ("1,red,2,0\n", [":7:", "'a'", "'2'"]),
        ("1,'red,1,0\n", [":7:", "quote"]),
        ("1,red,1,0,{5}\n", [":7:", "weight"]),
        ("1,red,1,0\n{0 1}\n", [":8:", "sparse row"]),
        ("{0 1}\n1,red,1,0\n", [":8:", "sparse row"]),
        ("{0 1,9 1}\n", [":7:", "index 9", "0 to 3"]),
        ("{0 1,0 2}\n", [":7:", "index 0", "twice"]),
        ("{0 1,}\n", [":7:", "index value"]),
        ("{0 1 2}\n", [":7:", "index value"]),
        ("{-1 1}\n", [":7:", "index value"]),
        ("{0 ?}\n", [":7:", "missing"]),
        ("{0 inf}\n", [":7:", "feature x is inf"]),
        ("{1 blue}\n", [":7:", "'blue'"]),
        ("", ["no rows"]),
    ],
)
def test_bad_rows(write, rows, parts):
    fails(write(HEAD + rows), *parts, labels=["a", "b"])


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("@data", "", ["@data"]),
        ("@attribute a {0,1}", "@attribute x {0,1}", [":4:", "'x'", "line 2"]),
        ("@attribute a {0,1}", "@attribute a {0,1", [":4:", "'}'"]),
        ("@attribute a {0,1}", "@attribute a {0,0}", [":4:", "twice"]),
        ("@attribute a {0,1}", "@attribute a date", [":4:", "'date'"]),
        ("@attribute a {0,1}", "@attribute a", [":4:", "NAME TYPE"]),
        ("@attribute a {0,1}", "@attribute a {1,2,3}", [":4:", "{1,2,3}", "{0,1}"]),
        ("@relation r", "x,y,z", [":1:", "is this ARFF?"]),
        ("numeric", "string", []),
    ],
)
def test_bad_headers(write, old, new, parts):
    fails(write(HEAD.replace(old, new, 1) + "1,red,1,0\n1,red,1,0"), *parts, labels=-2)


def test_bad_labels(write, tmp_path):
    path = write(HEAD + "1,red,1,0\n")
    fails(path, ":2:", "'c'", "absent", "x, colour, a, b", labels=["a", "c"])
    fails(path, "'Class*'", "absent", labels="Class*")
    fails(path, "labels=9", labels=9)
    fails(path, "every column", labels="*")
    head = "@relation r\n@attribute x real\n@attribute y real\n@data\n"
    real = write(head + "1,1\n1,0.5\n", "real.arff")
    fails(real, ":6:", "'y' is 0.5", labels=["y"])

    def xml(text):
        (tmp_path / "bad.xml").write_text(text)
        with pytest.raises(InputError, match=r"bad\.xml") as caught:
            read(path, labels=tmp_path / "bad.xml")
        return str(caught.value)

    assert ":1:" in xml("<labels><label name=")
    assert "DOCTYPE" in xml('<!DOCTYPE l [<!ENTITY e "x">]><labels/>')
    assert ":2:" in xml('<labels>\n<label name="zzz"/></labels>')
    assert "no labels" in xml("<labels/>")
    assert "twice" in xml('<labels><label name="a"/><label name="a"/></labels>')
    with pytest.raises(InputError, match=re.escape("gone.xml: no such file")):
        read(path, labels="gone.xml")
