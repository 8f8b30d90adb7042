"""Synthesizers: language models of one text that differ in their attention.

    zlpr-jax train synthesizer-text                  conversations, nothing downloaded
    zlpr-jax train synthesizer-text --data FILE      your own text
    zlpr-jax train synthesizer-text --attention dot random mixture random+dot

A model is trained for each attention and seed, all with the same budget. Perplexity on
the held-out part chooses parameters and the model kept; the test part is for the
report.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from zlpr_jax._errors import InputError
from zlpr_jax.recipes._config import OptimizerConfig, check
from zlpr_jax.recipes._language_config import LanguageConfig

OPTIMIZER = OptimizerConfig(method="adaxw", learning_rate=2e-3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LanguageConfig):
    """Train language models on a text, one for each attention.

    Attributes:
        data: A .txt, .md or .jsonl file ({"text": ...} on each line), also .gz, or a
            folder of .txt files. By default the English conversations that come with
            the package chatterbot-corpus.
        level: What a token is.
        vocabulary_size: Tokens that are known at most, the most frequent ones. By
            default 5,000 words, or all characters.
        min_count: How often a token must occur in the training part to be known. From 2
            on the model learns what unknown tokens are like: from the rare ones.
        length: Tokens of context.
        validation: Share of the text held out of training, to choose by, in (0, 1): of
            documents at random, of a single document what comes before the test part.
        test: Share of the text that tests, in (0, 1): of documents at random, of a
            single document its end.
    """

    data: Path | None = None
    level: Literal["character", "word"] = "character"
    vocabulary_size: int | None = None
    min_count: int = 2
    length: int = 128
    validation: float = 0.1
    test: float = 0.1
    width: int = 96
    dropout: float = 0.1
    steps: int = 900
    batch_size: int = 16
    optimizer: OptimizerConfig = OPTIMIZER

    def __post_init__(self):
        super().__post_init__()
        check("length", self.length, low=2)
        check("min_count", self.min_count, low=1)
        if self.vocabulary_size is not None:
            check("vocabulary_size", self.vocabulary_size, low=3)
        for name in ("validation", "test"):
            check(name, getattr(self, name), low=0, high=1, open_low=True)
        if self.validation + self.test >= 1:
            raise InputError(
                f"validation {self.validation} and test {self.test} leave nothing to "
                "train on: together they must be < 1."
            )


def run(config: Config, *, resume: bool = False) -> None:
    """Read the text, train, print the table and write the run folder.

    Args:
        config: The settings.
        resume: Whether to go on with the run in `config.run`.
    """
    from zlpr_jax.data.chatterbot import read_chatterbot_texts
    from zlpr_jax.data.text import read_texts
    from zlpr_jax.recipes._language import check_attention, run_language_models
    from zlpr_jax.recipes._language_text import make_problem

    check_attention(config.attention)
    texts = read_chatterbot_texts() if config.data is None else read_texts(config.data)
    problem = make_problem(config, texts)
    run_language_models("synthesizer-text", config, problem, resume=resume)
