"""Which attributes of an ARFF file are labels: Mulan's XML, MEKA's -C, or by name."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from xml.parsers import expat

from zlpr_jax._errors import InputError
from zlpr_jax.data._columns import LabelSpec, select_labels
from zlpr_jax.data._open import fail, read_bytes, unpacked_name
from zlpr_jax.data._records import Schema

_MEKA = re.compile(r"-C\s+(-?\d{1,9})\b")

WAYS = (
    "give one of: an XML file of labels beside it (Mulan), '-C n' in @relation (MEKA), "
    "or labels= (--labels): names, a glob such as 'Class*', the number of leading "
    "labels, or the path of an XML file"
)


def find_labels(
    path: Path,
    relation: str,
    names: Sequence[str],
    name_lines: Sequence[int],
    labels: LabelSpec,
    schema: Schema | None,
) -> list[int]:
    """The positions of the label attributes.

    Args:
        path: the ARFF file.
        relation: its @relation.
        names: its attributes.
        name_lines: their lines.
        labels: what the user says; None: see the file and its XML.
        schema: the training set's columns. With it, a file may have no labels.

    Returns:
        Increasing positions; empty only with a schema.

    Raises:
        InputError: no rule applies, or a label is not an attribute.
    """
    line = name_lines[0]
    if labels is not None:
        if isinstance(labels, os.PathLike):
            return _by_xml(Path(labels), str(path), names)
        if isinstance(labels, str) and labels.lower().endswith(".xml"):
            return _by_xml(Path(labels), str(path), names)
        return select_labels(names, labels, str(path), line)
    xml = _xml_beside(path)
    if schema is not None:
        # The training set says what a label is. The XML may add labels that the
        # training set lacks, which is an error that should name them.
        known = set(schema.label_names)
        if xml is not None:
            known.update(_match(name, names) for name, _ in _read_xml(xml))
        return [i for i, name in enumerate(names) if name in known]
    if xml is not None:
        return _by_xml(xml, str(path), names)
    counts = _MEKA.findall(relation)
    # Two of them: WEKA filters have moved the attributes since, as in medical.
    if len(counts) == 1:
        return select_labels(names, int(counts[0]), str(path), line)
    raise InputError(f"{path}: which attributes are labels is not known: {WAYS}")


def _xml_beside(path: Path) -> Path | None:
    """emotions-train.arff -> emotions.xml: the longest stem that begins the name."""
    stem = unpacked_name(path).stem
    found = [
        xml
        for xml in path.parent.glob("*.xml")
        if stem.startswith(xml.stem) and not stem[len(xml.stem) :][:1].isalnum()
    ]
    return max(found, key=lambda xml: len(xml.stem), default=None)


def _match(name: str, names: Sequence[str]) -> str:
    r"""The attribute that an XML label means: WEKA's escapes occur on both sides."""
    if name in names:
        return name
    plain = re.sub(r"\\(.)", r"\1", name)
    return plain if plain in names else name


def _by_xml(xml: Path, path: str, names: Sequence[str]) -> list[int]:
    position = {name: i for i, name in enumerate(names)}
    chosen: set[int] = set()
    for label, line in _read_xml(xml):
        name = _match(label, names)
        if name not in position:
            raise fail(
                str(xml),
                line,
                f"label {label!r} is no attribute of {path}: mend one of them, or say "
                "labels=",
            )
        if position[name] in chosen:
            raise fail(str(xml), line, f"label {label!r} is given twice: remove one")
        chosen.add(position[name])
    if len(chosen) == len(names):
        raise fail(str(xml), 1, f"names every attribute of {path} as a label")
    return sorted(chosen)


def _read_xml(xml: Path) -> list[tuple[str, int]]:
    """The label names of a Mulan XML file, each with its line."""
    found: list[tuple[str, int]] = []
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag.rpartition(":")[2] == "label":
            if "name" not in attributes:
                raise fail(str(xml), parser.CurrentLineNumber, "<label> has no name=")
            found.append((attributes["name"], parser.CurrentLineNumber))

    def doctype(*_: object) -> None:
        # A document type may define entities that expand without bound.
        raise fail(
            str(xml),
            parser.CurrentLineNumber,
            "has a DOCTYPE; expected none: remove it",
        )

    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(read_bytes(xml), True)
    except expat.ExpatError as error:
        raise fail(
            str(xml),
            error.lineno,
            f"not XML ({expat.ErrorString(error.code)}); expected "
            '<labels><label name="..."></label>...</labels>',
        ) from None
    if not found:
        raise InputError(f'{xml}: no labels; expected <label name="..."></label>')
    return found
