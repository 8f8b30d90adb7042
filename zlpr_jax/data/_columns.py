"""Which columns are labels, and what a label cell says."""

import difflib
import fnmatch
import os
from collections.abc import Sequence
from typing import TypeAlias

from zlpr_jax._errors import InputError
from zlpr_jax.data._open import fail, shorten

LabelSpec: TypeAlias = str | int | os.PathLike[str] | Sequence[str] | None

_GLOB = frozenset("*?[")

# In a pair of label values, (no, yes).
LABEL_PAIRS = (("0", "1"), ("no", "yes"), ("false", "true"), ("n", "y"), ("f", "t"))


def parse_label_spec(text: str | None) -> LabelSpec:
    """What a `--labels` argument says, for `read(labels=...)`.

    A whole number stays a number and a comma makes a list; anything else is one
    pattern, column or path. "y," is the list of one column.

    Examples:
        >>> parse_label_spec("-2"), parse_label_spec("a, b"), parse_label_spec("y,")
        (-2, ['a', 'b'], ['y'])
        >>> parse_label_spec("Class*")
        'Class*'
    """
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        names = [name.strip() for name in text.split(",")]
        return [name for name in names if name] if len(names) > 1 else text


def is_glob(pattern: str) -> bool:
    """Whether a label specification has wildcards.

    Examples:
        >>> is_glob("Class*"), is_glob("tags")
        (True, False)
    """
    return not _GLOB.isdisjoint(pattern)


def select_labels(
    names: Sequence[str], labels: int | str | Sequence[str], path: str, line: int
) -> list[int]:
    """The positions of the label columns.

    Args:
        names: all columns.
        labels: the first n columns (the last -n if negative), or names and globs.
        path: the file, for errors.
        line: the line that names the columns.

    Returns:
        Increasing positions.

    Raises:
        InputError: a name or glob matches nothing, or no column or every column is
            a label.

    Examples:
        >>> select_labels(["x", "tag_a", "tag_b"], "tag_*", "f.csv", 1)
        [1, 2]
        >>> select_labels(["x", "tag_a", "tag_b"], -2, "f.csv", 1)
        [1, 2]
    """
    if isinstance(labels, int):
        if not 0 < abs(labels) < len(names):
            raise fail(
                path,
                line,
                f"labels={labels}, of {len(names)} columns; expected 1 to "
                f"{len(names) - 1} of them, or the negative for the last ones",
            )
        columns = range(len(names))
        return list(columns[:labels] if labels > 0 else columns[labels:])
    patterns = [labels] if isinstance(labels, str) else list(labels)
    if not patterns:
        raise fail(path, line, "labels= is empty; expected names of label columns")
    chosen: set[int] = set()
    for pattern in patterns:
        # A name wins over a glob: names may hold brackets.
        hits = [i for i, name in enumerate(names) if name == pattern]
        if not hits and is_glob(pattern):
            hits = [
                i for i, name in enumerate(names) if fnmatch.fnmatchcase(name, pattern)
            ]
        if not hits:
            near = difflib.get_close_matches(pattern, names, n=3)
            hint = f"did you mean {shorten(near)}?" if near else "name one of them"
            raise fail(
                path,
                line,
                f"label column {pattern!r} is absent; the columns are "
                f"{shorten(names)}: {hint}",
            )
        chosen.update(hits)
    if len(chosen) == len(names):
        raise fail(path, line, "every column is a label; expected at least one feature")
    return sorted(chosen)


def check_unique(names: Sequence[str], what: str, path: str, line: int) -> None:
    """Raise `InputError` if two columns have one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise fail(path, line, f"{what} {name!r} is given twice: rename one")
        seen.add(name)


def label_cell(cell: str) -> bool:
    """What a 0/1 cell says.

    Args:
        cell: "0", "1", "0.0", "1.0", or a word such as "true" or "NO".

    Returns:
        Whether the row has the label.

    Raises:
        InputError: it is none of these; without the place, which the caller adds.

    Examples:
        >>> label_cell("1"), label_cell("False")
        (True, False)
    """
    word = cell.strip().lower()
    for negative, positive in LABEL_PAIRS:
        if word == negative:
            return False
        if word == positive:
            return True
    if word in ("0.0", "1.0"):
        return word == "1.0"
    raise InputError(f"{cell!r}; expected 0 or 1")
