"""`zlpr-jax predict RUN --data FILE`: labels and scores as JSON lines."""

import os
import sys
from pathlib import Path

from zlpr_jax._errors import InputError
from zlpr_jax.commands._trained import load_run
from zlpr_jax.data.multilabel import read, read_jsonl


def run(run_path: str, data: str, output: str | None, threshold: float) -> None:
    """Write one JSON object per row of `data`.

    Args:
        run_path: The run folder.
        data: A file with or without labels, or "-" for JSONL on standard input.
        output: File to write, which must not exist; by default standard output.
        threshold: A label is predicted where its score is above this.
    """
    if output is not None and os.path.exists(output):
        raise InputError(f"{output}: exists: name another file with --output.")
    model = load_run(Path(run_path))
    if data == "-":
        rows = read_jsonl(sys.stdin, schema=model.schema, labels_required=False)
    else:
        rows = read(
            data, labels=model.labels, schema=model.schema, labels_required=False
        )
    lines = model.lines(model.predict(rows), rows, threshold)
    if output is None:
        sys.stdout.writelines(lines)
        return
    try:
        with open(output, "x", encoding="utf-8") as stream:
            stream.writelines(lines)
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error}") from None
