"""Settings as JSON or TOML, and back. Standard library only."""

import dataclasses
import difflib
import json
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from zlpr_jax._errors import InputError

T = TypeVar("T")

_NONE = type(None)
_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "a path",
}


def to_json(config: Any, *, absolute: bool = False) -> dict[str, Any]:
    """A dataclass as a dict that `json.dumps` takes.

    Args:
        config: Of the types that `from_json` reads.
        absolute: Whether to write relative paths as absolute ones, which hold in any
            directory.
    """

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            fields = dataclasses.fields(value)
            return {field.name: plain(getattr(value, field.name)) for field in fields}
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        if isinstance(value, Path):
            return str(value.absolute() if absolute else value)
        return value

    return plain(config)


def from_json(cls: type[T], value: object, *, source: str) -> T:
    """The dataclass that `to_json` wrote.

    A field may be a dataclass, bool, int, float, str, `Path`, `Literal`,
    `tuple[T, ...]`, or one of these or None. Nothing is converted but an integer to a
    float; one that is left out has its default.

    Args:
        cls: The dataclass.
        value: What `json.load` returned.
        source: Where it came from, for errors.

    Raises:
        InputError: If a field is unknown, missing, ill-typed or out of its range.

    Examples:
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class Config:
        ...     steps: int = 10
        >>> from_json(Config, {"steps": 20}, source="settings.json")
        Config(steps=20)
    """
    reader = _Reader(source, tuple(_names(cls)))
    return reader.build(cls, value, "", None)


def arguments(cls: type, value: object, *, source: str) -> dict[str, Any]:
    """The arguments of `cls` that settings give, for the caller to add to.

    The arguments and errors are those of `from_json`, but nothing counts as missing.
    """
    return _Reader(source, tuple(_names(cls))).arguments(cls, value, "")


def read_settings(path: Path) -> dict[str, Any]:
    """Read settings from a .json or .toml file.

    Raises:
        InputError: If it cannot be read, or is not a JSON object or TOML.
    """
    if path.suffix not in (".json", ".toml"):
        raise InputError(f"{path}: settings are read from .json or .toml files.")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            return tomllib.loads(text)
        value = json.loads(text, object_pairs_hook=_without_repeats)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as settings: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object of settings, got {value!r}.")
    return value


class _Reader(NamedTuple):
    """Reads the settings of one source.

    Attributes:
        source: Where they come from, for errors.
        names: All that there are, dotted.
    """

    source: str
    names: tuple[str, ...]

    def build(self, cls: type[T], value: object, name: str, default: Any) -> T:
        """A dataclass, which is the setting `name`."""
        given = self.arguments(cls, value, name)
        if isinstance(default, cls):
            # a recipe's default may differ from those of the class
            given = {**vars(default), **given}
        for field, (kind, default) in _fields(cls).items():
            if field not in given and default is dataclasses.MISSING:
                raise InputError(
                    f"{self.source}: {_join(name, field)} is missing; expected "
                    f"{_describe(kind)}."
                )
        try:
            return cls(**given)
        except InputError as error:
            raise InputError(f"{self.source}: {_join(name, str(error))}") from None

    def arguments(self, cls: type, value: object, name: str) -> dict[str, Any]:
        """What `value` gives of the fields of `cls`."""
        if not isinstance(value, dict):
            raise self.ill_typed(cls, value, name or "the whole")
        fields = _fields(cls)
        for field in value:
            if field not in fields:
                raise self.unknown(_join(name, field))
        return {
            field: self.convert(fields[field][0], item, _join(name, field), default)
            for field, item in value.items()
            for default in (fields[field][1],)
        }

    def convert(self, kind: Any, value: Any, name: str, default: Any) -> Any:
        """The setting `name`, which must be of the type `kind`."""
        inner = _without_none(kind)
        if value is None and inner is not kind:
            return None
        origin, parts = typing.get_origin(inner), typing.get_args(inner)
        if dataclasses.is_dataclass(inner):
            assert isinstance(inner, type)
            return self.build(inner, value, name, default)
        if origin is tuple and isinstance(value, list):
            return tuple(
                self.convert(parts[0], item, f"{name}[{index}]", None)
                for index, item in enumerate(value)
            )
        if origin is Literal and type(value) is str and value in parts:
            return value
        if inner is Path and type(value) is str and value:
            return Path(value)
        if inner is float and type(value) is int and abs(value) < 2**1000:
            return float(value)
        # not isinstance: True is no 1
        if type(value) is inner:
            return value
        raise self.ill_typed(kind, value, name)

    def ill_typed(self, kind: Any, value: object, name: str) -> InputError:
        """The error for a value of another type."""
        return InputError(
            f"{self.source}: {name} must be {_describe(kind)}, got {value!r}."
        )

    def unknown(self, name: str) -> InputError:
        """The error for a name that no setting has."""
        last = name.rpartition(".")[2]
        namesakes = [known for known in self.names if known.endswith(f".{last}")]
        near = namesakes or difflib.get_close_matches(name, self.names, 1, cutoff=0)
        return InputError(
            f"{self.source}: there is no setting {name}; the nearest is {near[0]}."
        )


def _fields(cls: type) -> dict[str, tuple[Any, Any]]:
    """Type and default, or `MISSING`, of every field."""
    kinds = typing.get_type_hints(cls)
    return {
        field.name: (
            kinds[field.name],
            field.default
            if field.default_factory is dataclasses.MISSING
            else field.default_factory(),
        )
        for field in dataclasses.fields(cls)
    }


def _names(cls: type, prefix: str = "") -> Iterator[str]:
    for field, (kind, _) in _fields(cls).items():
        yield prefix + field
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from _names(kind, f"{prefix}{field}.")


def _join(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


def _without_none(kind: Any) -> Any:
    """`X` for `X | None`."""
    parts = typing.get_args(kind)
    return next(part for part in parts if part is not _NONE) if _NONE in parts else kind


def _describe(kind: Any) -> str:
    inner = _without_none(kind)
    if inner is not kind:
        return f"{_describe(inner)}, or null"
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, parts))
    if typing.get_origin(kind) is tuple:
        return f"a list, each item {_describe(parts[0])}"
    if dataclasses.is_dataclass(kind):
        return "an object of settings"
    return _KINDS[kind]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{repeated!r} is there twice")
    return found
