"""`zlpr-jax evaluate RUN`: score a trained model on labelled rows."""

from pathlib import Path

import rich.box
from rich.console import Console
from rich.table import Table

from zlpr_jax._errors import InputError
from zlpr_jax.commands._trained import load_run
from zlpr_jax.data.multilabel import read
from zlpr_jax.data.yeast import read_yeast


def run(run_path: str, data: str | None) -> None:
    """Print a table of scores.

    Args:
        run_path: The run folder.
        data: A labelled file; by default the test rows that the run was scored on.
    """
    model = load_run(Path(run_path))
    if data is None and model.recipe == "yeast":
        _, rows = read_yeast()
    elif (path := data or model.test) is not None:
        rows = read(path, labels=model.labels, schema=model.schema)
    else:
        raise InputError(
            f"{run_path}: the run's test rows were part of its training file: "
            "name a labelled file with --data."
        )
    scores = model.task.score(model.predict(rows), list(rows))
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("score")
    table.add_column("value", justify="right")
    for name, (title, larger) in model.titles.items():
        table.add_row(f"{title} {'↑' if larger else '↓'}", f"{scores[name]:.4f}")
    console = Console()
    console.print(f"{len(rows)} rows of {rows.path}", soft_wrap=True, highlight=False)
    console.print(table)
