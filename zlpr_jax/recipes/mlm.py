"""An encoder of your own text: masked-language-model pretraining.

    zlpr-jax train mlm                      conversations, nothing is downloaded
    zlpr-jax train mlm --data FILE          your own text
    zlpr-jax train mlm --data FILE --encoder DIR        go on with an encoder

It guesses words that are hidden, from those around them. The run folder's `encoder` is
what `--encoder` of other recipes takes, and a folder that transformers reads.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from zlpr_jax._errors import InputError
from zlpr_jax.recipes._config import LoopConfig, OptimizerConfig, check

OPTIMIZER = OptimizerConfig(method="adaxw", learning_rate=1e-3, weight_decay=0.01)
# What the settings leave open, without an encoder to go on with.
WIDTH, LAYERS, HEADS = 128, 4, 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LoopConfig):
    """Train a small encoder to guess the hidden words of a text.

    Attributes:
        data: A .txt, .md or .jsonl file ({"text": ...} on each line), also .gz, or a
            folder of .txt files. By default the English conversations that come with
            the package chatterbot-corpus.
        vocabulary: A vocab.txt, one WordPiece token on each line. By default it is made
            of the training part.
        vocabulary_size: Tokens of the vocabulary that is made, at most; single
            characters first, of any writing. By default 8,000.
        lowercase: Whether capitals count as small letters, and é as e. With --encoder
            its tokenizer decides.
        segmentation: The same text, in the same form and lines, with white space
            between words, so that whole words of Chinese are hidden. By default words
            are what white space and punctuation separate, in Chinese each character.
        encoder: Folder of an encoder to go on with: its tokenizer and its shape hold.
        share: Of the words that are hidden, in (0, 1].
        length: Tokens of a row, and what the encoder will take at most.
        width: Of a token's representation, a multiple of heads. By default 128.
        layers: Number of blocks. By default 4.
        heads: Of attention. By default 4.
        hidden: Width inside of a block. By default four times the width.
        positions: What tells a token where it stands: learned vectors (BERT), relative
            positions (NEZHA) or rotary ones (RoFormer). By default learned.
        dropout: Share that is dropped in training, also of attention, >= 0 and < 1. By
            default 0.1, or what the encoder has.
        validation: Share of the text held out of training, in (0, 1): of documents at
            random, of a single document its last lines.
        steps: Optimizer steps.
        batch_size: Rows per step, over all devices.
        patience: Evaluations without a lower held-out loss before training stops; None
            never stops early.
        report_every: Steps between reports.
        accumulate: Parts that a batch is worked off in, for less memory.
        optimizer: The optimizer.
    """

    data: Path | None = None
    vocabulary: Path | None = None
    vocabulary_size: int | None = None
    lowercase: bool = True
    segmentation: Path | None = None
    encoder: Path | None = None
    share: float = 0.15
    length: int = 128
    width: int | None = None
    layers: int | None = None
    heads: int | None = None
    hidden: int | None = None
    positions: Literal["learned", "relative", "rotary"] | None = None
    dropout: float | None = None
    validation: float = 0.1
    steps: int = 2000
    eval_every: int = 100
    batch_size: int = 32
    patience: int | None = None
    report_every: int = 25
    accumulate: int = 1
    optimizer: OptimizerConfig = OPTIMIZER

    def __post_init__(self):
        super().__post_init__()
        for name in ("width", "layers", "heads", "hidden"):
            if getattr(self, name) is not None:
                check(name, getattr(self, name), low=1)
        if self.dropout is not None:
            check("dropout", self.dropout, low=0, high=1)
        if self.vocabulary_size is not None:
            check("vocabulary_size", self.vocabulary_size, low=6)
        check("length", self.length, low=8)
        check("validation", self.validation, low=0, high=1, open_low=True)
        if not 0 < self.share <= 1:
            raise InputError(f"share must be in (0, 1], got {self.share}.")
        if self.vocabulary is not None and self.vocabulary_size is not None:
            raise InputError(
                "vocabulary_size is of a vocabulary that is made, and vocabulary is "
                "given: leave one of them out."
            )
        if self.encoder is None:
            self._check_shape()
            return
        for name in (
            *("vocabulary", "vocabulary_size", "width", "layers", "heads", "hidden"),
            "positions",
        ):
            if getattr(self, name) is not None:
                raise InputError(
                    f"{name} is that of the encoder that --encoder names: leave one of "
                    "them out."
                )

    def _check_shape(self) -> None:
        width, heads = self.width or WIDTH, self.heads or HEADS
        if width % heads:
            raise InputError(
                f"width must be a multiple of heads, got {width} and {heads}."
            )
        if self.positions not in (None, "learned") and width // heads % 2:
            raise InputError(
                f"{self.positions} positions need heads of an even width, got "
                f"{width // heads} ({width} / {heads} heads)."
            )


def run(config: Config, *, resume: bool = False) -> None:
    """Read the text, train, print the table and write the run folder.

    Args:
        config: The settings.
        resume: Whether to go on with the run in `config.run`.
    """
    from zlpr_jax.data.chatterbot import read_chatterbot_texts
    from zlpr_jax.data.text import read_texts
    from zlpr_jax.recipes._mlm import run_masked
    from zlpr_jax.recipes._mlm_text import make_problem

    texts = read_chatterbot_texts() if config.data is None else read_texts(config.data)
    run_masked(config, make_problem(config, texts), resume=resume)
