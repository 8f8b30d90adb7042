"""GoEmotions: 27 emotions and "neutral" in English comments.

    zlpr-jax train goemotions --data FOLDER
    zlpr-jax train goemotions --data FOLDER --encoder ENCODER

FOLDER holds the official train.tsv, dev.tsv and test.tsv, and labels.txt. Without an
encoder comments become TF-IDF features; with one, a folder that BERT, NEZHA or RoFormer
was saved to, it is fine-tuned. The development rows choose the step and the tuned
thresholds; the test rows are scored once.

Expect, fine-tuning all-MiniLM-L6-v2 for one epoch (`--steps 1357 --eval-every 679`),
half an hour on two CPU cores for each loss, and for ZLPR at s > 0 on the test rows
micro-F1 .60 and macro-F1 .49.
"""

import dataclasses
from pathlib import Path

from zlpr_jax._errors import InputError
from zlpr_jax.recipes._config import ExperimentConfig, TextConfig, check

TEXT = TextConfig(length=64, learning_rate=2e-4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Train on GoEmotions and compare ZLPR with BCE.

    Attributes:
        data: Folder of train.tsv, dev.tsv, test.tsv and labels.txt.
        max_features: Words and word pairs kept of a text, at most; without an encoder.
    """

    data: Path
    max_features: int = 20_000
    refit: bool = False
    text: TextConfig = TEXT

    def __post_init__(self):
        super().__post_init__()
        check("max_features", self.max_features, low=1)
        if self.refit:
            raise InputError(
                "refit: the rows that validate are a file of their own, and what is "
                "trained on is all there is: leave it out."
            )


def run(config: Config, *, resume: bool = False) -> None:
    """Read the files, train, print the table and write the run folder.

    Args:
        config: The settings.
        resume: Whether to go on with the run in `config.run`.
    """
    from zlpr_jax.data.multilabel import read
    from zlpr_jax.recipes._experiment import run_experiment

    train = read(config.data / "train.tsv")
    validation, test = (
        read(config.data / f"{part}.tsv", schema=train.schema)
        for part in ("dev", "test")
    )
    run_experiment(
        "goemotions",
        config,
        train,
        test,
        validation=validation,
        max_features=config.max_features,
        resume=resume,
    )
