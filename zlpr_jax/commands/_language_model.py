"""A trained language model, read back from its run folder."""

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.commands._complete import read_config
from zlpr_jax.data.vocabulary import END, Vocabulary
from zlpr_jax.models.decoder import DecoderConfig
from zlpr_jax.tasks.language import make
from zlpr_jax.training import load_tree, read_json

TEXT, COPY = "synthesizer-text", "synthesizer-copy"
# Unknown tokens named of a prompt.
NAMED = 10


class LanguageModel(NamedTuple):
    """What a run of `zlpr-jax train synthesizer-text` or `synthesizer-copy` learned.

    Attributes:
        attention: What the run calls the attention of the model that it kept.
        config: The network.
        vocabulary: Its tokens; `None` of a run that was not trained on text.
        shown: A few test tokens and what to call them, `{"tokens", "labels"}`.
        params: Its parameters.
        state: Its state.
    """

    attention: str
    config: DecoderConfig
    vocabulary: Vocabulary | None
    shown: Mapping[str, list[Any]]
    params: PyTree
    state: PyTree


def load_language_model(path: Path, recipes: Collection[str]) -> LanguageModel:
    """Read a run folder.

    Args:
        path: The run folder.
        recipes: The recipes that the command is for.

    Raises:
        InputError: If a file is missing, damaged or does not fit the others.
    """
    stored = read_config(path, recipes)
    results = read_json(path / "results.json")
    vocabulary = None
    if stored["recipe"] == TEXT:
        vocabulary = Vocabulary.from_json(read_json(path / "vocabulary.json"))
    try:
        chosen = results["chosen"]
        rows = {row["attention"]: row for row in results["models"]}
        components = tuple(rows[chosen]["components"])
        config = DecoderConfig(**stored["network"], attention=components)
        shown = stored["shown"]
        fits = len(shown["tokens"]) == len(shown["labels"])
        if not fits or len(vocabulary or ()) not in (0, config.vocabulary):
            raise ValueError("the tokens do not fit the network")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: config.json, results.json or vocabulary.json is not what "
            f"`zlpr-jax train` writes: {error!r}"
        ) from None
    params, state = jax.eval_shape(make(config).init, jax.random.key(0))
    tree = load_tree(path / "params.safetensors", {"params": params, "state": state})
    return LanguageModel(
        chosen, config, vocabulary, shown, tree["params"], tree["state"]
    )


def read_prompt(vocabulary: Vocabulary, text: str) -> list[int]:
    """The tokens of a text behind `END`, which every text begins with.

    A line on stderr names those that the vocabulary lacks.
    """
    there = Vocabulary.build([text], vocabulary.level).tokens
    unknown = [token for token in there if token not in set(vocabulary.tokens)]
    if unknown:
        named = ", ".join(map(repr, unknown[:NAMED]))
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        print(
            f"zlpr-jax: the model does not know the {vocabulary.level}"
            f"{'s' if len(unknown) > 1 else ''} {named}{more}: <unk> is read instead",
            file=sys.stderr,
        )
    return [END, *vocabulary.encode(text).tolist()]
