"""Settings to JSON and back, and files of settings."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zlpr_jax._errors import InputError
from zlpr_jax.recipes import multilabel, yeast
from zlpr_jax.recipes._config import ModelConfig, OptimizerConfig
from zlpr_jax.recipes._settings import arguments, from_json, read_settings, to_json
from zlpr_jax.training import FitConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    path: Path
    flag: bool = False
    number: int | None = None
    choice: tuple[Literal["a", "b"], ...] | None = None
    inner: Inner = dataclasses.field(default_factory=Inner)


OUTER = st.builds(
    Outer,
    path=st.text("abc/. é").map(Path),
    flag=st.booleans(),
    number=st.none() | st.integers(),
    choice=st.none() | st.lists(st.sampled_from("ab")).map(tuple),
    inner=st.builds(
        Inner,
        rate=st.floats(allow_nan=False),
        names=st.lists(st.text()).map(tuple),
    ),
)


@given(OUTER)
def test_what_is_written_is_read(config):
    text = json.dumps(to_json(config))
    assert from_json(Outer, json.loads(text), source="x") == config


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = st.sampled_from(["path", "flag", "number", "choice", "inner"])


@given(st.dictionaries(FIELDS, JSON) | JSON)
def test_anything_else_is_an_input_error(value):
    with contextlib.suppress(InputError):
        config = from_json(Outer, value, source="x")
        value["path"] = str(Path(value["path"]))
        # nothing was converted but integers to floats
        assert {**to_json(config), **value} == to_json(config)


ERRORS = {
    "unknown": ({"step": 5}, "there is no setting step; the nearest is steps"),
    "dash": ({"batch-size": 5}, "no setting batch-size; the nearest is batch_size"),
    "unknown inside": (
        {"optimizer": {"lerning_rate": 1.0}},
        "no setting optimizer.lerning_rate; the nearest is optimizer.learning_rate",
    ),
    "one level up": (
        {"learning_rate": 1.0},
        "no setting learning_rate; the nearest is optimizer.learning_rate",
    ),
    "string for a number": (
        {"optimizer": {"b1": "0.9"}},
        "optimizer.b1 must be a number, got '0.9'",
    ),
    "bool for an integer": ({"seeds": True}, "seeds must be an integer, got True"),
    "float for an integer": ({"seeds": 2.0}, "seeds must be an integer, got 2.0"),
    "integer for a bool": ({"refit": 1}, "refit must be true or false, got 1"),
    "number for a path": ({"test": 3}, "test must be a path, or null, got 3"),
    "null": ({"seeds": None}, "seeds must be an integer, got None"),
    "no path": ({"test": ""}, "test must be a path, or null, got ''"),
    "choice": (
        {"optimizer": {"method": "adam"}},
        "method must be one of 'adax', 'adaxw', 'adafactor', 'factored_adax', "
        "got 'adam'",
    ),
    "item": ({"losses": ["zlpr", "x"]}, "losses[1] must be one of 'zlpr', 'bce'"),
    "no list": (
        {"model": {"hidden": 64}},
        "model.hidden must be a list, each item an integer, or null, got 64",
    ),
    "no object": ({"model": [64]}, "model must be an object of settings, got [64]"),
    "range": ({"model": {"dropout": 1.5}}, "model.dropout must be >= 0 and < 1"),
    "range at the top": ({"seeds": 0}, "seeds must be >= 1, got 0"),
    "nan": ({"optimizer": {"b1": float("nan")}}, "optimizer.b1 must be >= 0"),
    "huge": ({"validation": 10**400}, "validation must be a number"),
    "missing": ({"data": ...}, "data is missing; expected a path"),
    "not an object": ([], "must be an object of settings, got []"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_where_and_why(case):
    value, reason = ERRORS[case]
    if isinstance(value, dict):
        value = {"data": "x.csv", **value}
        value = {name: item for name, item in value.items() if item is not ...}
    with pytest.raises(InputError) as caught:
        from_json(multilabel.Config, value, source="runs/x/config.json")
    assert str(caught.value).startswith("runs/x/config.json: ")
    assert reason in str(caught.value)


def test_what_is_left_out_has_the_recipes_default():
    config = from_json(yeast.Config, {"optimizer": {"b1": 0.5}}, source="x")
    assert config.optimizer == dataclasses.replace(yeast.OPTIMIZER, b1=0.5)
    assert config.model == yeast.MODEL
    assert arguments(multilabel.Config, {"seeds": 2}, source="x") == {"seeds": 2}


def test_paths_can_be_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = multilabel.Config(data=Path("x.csv"))
    assert to_json(config)["data"] == "x.csv"
    assert to_json(config, absolute=True)["data"] == str(tmp_path / "x.csv")
    assert to_json(config, absolute=True)["test"] is None


def test_files_of_both_kinds(tmp_path):
    (tmp_path / "s.toml").write_text(
        'losses = ["bce"]\nseeds = 2\n[model]\nhidden = []\n[optimizer]\nb1 = 0.5\n'
    )
    (tmp_path / "s.json").write_text(
        '{"losses": ["bce"], "seeds": 2, "model": {"hidden": []}, '
        '"optimizer": {"b1": 0.5}}'
    )
    found = [read_settings(tmp_path / name) for name in ("s.toml", "s.json")]
    assert found[0] == found[1]
    assert from_json(multilabel.Config, {**found[0], "data": "x"}, source="x") == (
        multilabel.Config(
            data=Path("x"),
            losses=("bce",),
            seeds=2,
            model=ModelConfig(hidden=()),
            optimizer=OptimizerConfig(b1=0.5),
        )
    )


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("s.yaml", b"", ".json or .toml"),
        ("s.json", b"{", "not readable as settings"),
        ("s.json", b"[" * 10**5, "not readable as settings"),
        ("s.json", b"\xff", "not readable as settings"),
        ("s.json", b"[]", "expected a JSON object of settings, got []"),
        ("s.json", b'{"a": {"b": 1, "b": 2}}', "'b' is there twice"),
        ("s.toml", b"a = 1\na = 2\n", "not readable as settings"),
        ("s.toml", None, "not readable as settings"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_settings(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert reason in str(caught.value)


def test_every_setting_of_fit_is_one_of_an_experiment():
    names = {field.name for field in dataclasses.fields(FitConfig)} - {"seed"}
    assert names <= {field.name for field in dataclasses.fields(yeast.Config)}
