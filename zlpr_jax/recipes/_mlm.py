"""Train a masked language model, and leave an encoder that others can read."""

import dataclasses
import math
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import rich.box
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.data.tokenizer import Tokenizer
from zlpr_jax.models.bert import BertConfig
from zlpr_jax.models.pretrained import save_pretrained
from zlpr_jax.recipes._mlm_text import Problem
from zlpr_jax.recipes._optimizer import make_optimizer
from zlpr_jax.recipes._session import Session, open_session, say
from zlpr_jax.recipes._settings import to_json
from zlpr_jax.recipes.mlm import Config
from zlpr_jax.tasks.masked import make
from zlpr_jax.training._curves import draw_panels
from zlpr_jax.training._digests import sync_folder
from zlpr_jax.training._mesh import fetch
from zlpr_jax.training._parameters import named_leaves
from zlpr_jax.training._run import CONFIG

NAME = "mlm"
ENCODER, PICTURE = "encoder", "loss.png"
SCORES = ("loss", "perplexity", "accuracy")


def run_masked(
    config: Config, problem: Problem, *, resume: bool = False
) -> dict[str, Any] | None:
    """Train for every seed, print the table and write the run folder.

    Args:
        config: The settings.
        problem: What to learn.
        resume: Whether to go on with the run in `config.run`.

    Returns:
        What `results.json` holds; `None` if Ctrl-C or SIGTERM came before the end.

    Raises:
        InputError: If the settings do not allow it, or training fails.
    """
    rows = {"training": problem.training, "validation": problem.validation}
    begun = {
        CONFIG: {
            "recipe": NAME,
            "data": problem.data,
            "sha256": problem.digest(),
            "rows": {part: len(found) for part, found in rows.items()},
            "network": dataclasses.asdict(problem.network),
            "settings": to_json(config, absolute=True),
        },
    }
    with open_session(NAME, config, begun, data=problem.data, resume=resume) as session:
        trained = session.train(lambda: _train_all(session, config, problem))
        if trained is None:
            return None
        results, kept = trained
        encoder = session.path / ENCODER
        if (folder := session.folder) is not None:
            write_encoder(encoder, problem.network, kept, problem.tokenizer)
            with folder.writing(PICTURE) as file:
                draw(file, session.log.rows(), problem.unigram["loss"])
        session.complete(results)
    say(session.console, problem.about)
    print_scores(session.console, results)
    session.say_paths(PICTURE)
    command = "zlpr-jax train multilabel --data FILE --encoder"
    say(session.console, f"fine-tune it: {command} {shlex.quote(str(encoder))}")
    return results


def write_encoder(
    folder: Path, network: BertConfig, params: PyTree, tokenizer: Tokenizer
) -> None:
    """Write what `from_pretrained`, `Tokenizer.load` and transformers read.

    The folder appears whole; one that an interrupted process wrote is replaced.

    Raises:
        InputError: If it cannot be written.
    """
    new = folder.with_name(f".new-{folder.name}")
    try:
        for path in (new, folder):
            if path.exists():
                shutil.rmtree(path)
        save_pretrained(new, network, params)
        tokenizer.save(new)
        for path in new.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        sync_folder(new)
        new.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error}") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def print_scores(console: Console, results: Mapping[str, Any]) -> None:
    """Print held-out scores: of token frequencies, then of each seed."""
    table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("held-out hidden tokens", no_wrap=True)
    for name in ("loss ↓", "perplexity ↓", "accuracy ↑"):
        table.add_column(name, justify="right", no_wrap=True)

    def add(name: str, scores: Mapping[str, Any], style: str | None = None) -> None:
        loss, perplexity, accuracy = (scores[score] for score in SCORES)
        cells = f"{loss:.3f}", f"{perplexity:.1f}", f"{accuracy:.1%}"
        table.add_row(name, *cells, style=style)

    add("by frequency alone", results["unigram"])
    for seed, scores in enumerate(results["seeds"]):
        kept = seed == results["chosen"]
        add(f"encoder, seed {seed}", scores, "bold" if kept else None)
    console.print(table)
    say(console, f"{results['parameters']:,} parameters; loss in nats for each token")


def draw(path: Path, rows: Sequence[Mapping[str, Any]], unigram: float) -> None:
    """Draw training and held-out loss of each seed, and what frequencies give."""

    def panel(axes: Axes) -> None:
        for part, label, color, alpha in (
            ("train", "training", "tab:blue", 0.4),
            ("validation", "held out", "tab:orange", 1.0),
        ):
            seeds = sorted({row["seed"] for row in rows if part in row})
            for seed in seeds:
                points = [
                    (row["step"], math.nan if value is None else value)
                    for row in rows
                    if row["seed"] == seed and part in row
                    for value in (row[part]["loss"],)
                ]
                axes.plot(
                    *zip(*points, strict=True),
                    marker="." if len(points) <= 20 else None,
                    color=color,
                    alpha=alpha,
                    label=label if seed == seeds[0] else None,
                )
        axes.axhline(unigram, color="black", linestyle="--", label="by frequency alone")
        axes.set(xlabel="step", ylabel="loss of hidden tokens, nats")
        axes.legend()

    draw_panels(path, "masked language model", panel)


def _train_all(
    session: Session, config: Config, problem: Problem
) -> tuple[dict[str, Any], PyTree]:
    """Train with every seed; return results, and the parameters of the best."""
    tx = make_optimizer(config.optimizer, config.steps)
    task = make(
        problem.network,
        places=problem.places,
        mask_id=problem.tokenizer.mask_id,
        special=problem.special,
        share=config.share,
        vocabulary=len(problem.tokenizer),
    )
    seeds: list[dict[str, Any]] = []
    best, chosen, kept = math.inf, 0, None
    for seed in range(config.seeds):
        initial = None
        if problem.params is not None:
            # where the encoder has no masked head, a new one
            params, state = jax.jit(task.init)(jax.random.key(seed))
            initial = {**params, **problem.params}, state
        name = f"seed {seed}"
        session.bar.start(name, headline=task.headline)
        fitted = session.fit(
            name,
            task,
            tx,
            problem.training,
            dataclasses.replace(session.settings, seed=seed),
            checkpoints=str(seed),
            log=session.log.bind(seed=seed),
            validation=problem.validation,
            initial=initial,
        )
        found = session.evaluate(task, fitted.params, fitted.state, problem.validation)
        session.bar.finish(f"best at step {fitted.step} of {config.steps}")
        seeds.append({"step": fitted.step, **found[0]})
        if found[0]["loss"] < best:
            best, chosen = found[0]["loss"], seed
            kept = fetch(fitted.params)
    if kept is None:
        raise InputError("no seed has a held-out loss: training has diverged.")
    leaves = named_leaves(kept).values()
    results = {
        "chosen": chosen,
        "parameters": sum(math.prod(leaf.shape) for leaf in leaves),
        "unigram": dict(problem.unigram),
        "seeds": seeds,
    }
    return results, kept
