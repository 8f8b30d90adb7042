"""A damaged file is read, or refused with an `InputError` of one line: nothing else."""

import random

import pytest

from zlpr_jax._errors import InputError
from zlpr_jax.data import Schema, read

SCHEMA = Schema(
    label_names=("a", "b"), feature_names=("x", "c=red"), num_features=2, kind="dense"
)
ARFF = (
    "@relation 'r: -C -2'\n@attribute x real\n@attribute c {red,'light blue',g}\n"
    "@attribute a {0,1}\n@attribute b {1,0}\n@data\n"
)
FILES = {
    "dense.arff": (ARFF + "1.5,'light blue',1,0\n2,g,0,1\n", None),
    "sparse.arff": (ARFF + "{0 1.5,1 'light blue'}\n{0 1,1 g,2 1}\n", None),
    "header.svm": ("2 5 3\n0,2 1:0.5 4:1\n 3:2.5\n", None),
    "bare.svm": ("0,2 1:0.5 4:1\n1 3:2.5\n", None),
    "columns.csv": ('id,x,y\nu,1,0\nv,"2",1\n', ["y"]),
    "cells.csv": ('id,text,y\nu,"a ""b",p;q\nv,2,\n', "y"),
    "bare.tsv": ("hello\t0,1\tr\nbye\t2\tq\n", None),
    "text.jsonl": (
        '{"text": "u", "labels": ["a"], "id": "3"}\n{"text": "v", "labels": []}\n',
        None,
    ),
    "named.jsonl": (
        '{"features": {"x": 1.5}, "labels": ["a"]}\n{"features": {}, "labels": []}\n',
        None,
    ),
}
LETTERS = "0129,;:{}'\"\\@%#\t\n\r -+.eE_?nax|\0é[]"


@pytest.mark.parametrize("name", FILES)
def test_damage(tmp_path, name):
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    text, labels = FILES[name]
    path = tmp_path / name
    path.write_text(text)
    read(path, labels=labels)
    rng = random.Random(name)
    messages = []
    for _ in range(150):
        damaged = list(text)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(damaged) + 1)
            cut = rng.choice((0, 0, 1, 2))
            damaged[place : place + cut] = rng.choice(LETTERS) * rng.randint(0, 1)
        path.write_text("".join(damaged) or " ", encoding="utf-8", newline="")
        for schema, required in ((None, True), (SCHEMA, True), (SCHEMA, False)):
            try:
                data = read(
                    path, labels=labels, schema=schema, labels_required=required
                )
            except InputError as error:
                messages.append(str(error))
            else:
                assert len(list(data)) == len(data) > 0
    assert messages, "no damage was noticed"
    assert all(name in message and "\n" not in message for message in messages)
