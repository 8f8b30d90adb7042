"""Synthesizers: which attention learns to copy sequences of many lengths.

    zlpr-jax train synthesizer-copy

Rows are `BEGIN x SEPARATOR x`, and the second x is to be predicted. Where a token has
to look depends on the length of x, which differs from row to row: scores that know
positions only cannot tell.
"""

import dataclasses

from zlpr_jax._errors import InputError
from zlpr_jax.recipes._config import OptimizerConfig, check
from zlpr_jax.recipes._language_config import LanguageConfig

OPTIMIZER = OptimizerConfig(method="adaxw", learning_rate=2e-3)
# Rows of different seeds have hardly any sequence in common.
TRAINING_SEED, VALIDATION_SEED, TEST_SEED = range(3)
# Tokens of the row that is kept for `zlpr-jax show`.
SHOWN = 26


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LanguageConfig):
    """Train decoders to copy sequences, one for each attention.

    Attributes:
        shortest: The least length of what is to be copied.
        longest: The greatest; all in between are as likely.
        symbols: How many symbols there are.
        rows: Rows to train on.
        test_rows: New rows that test; as many others choose the parameters.
    """

    shortest: int = 4
    longest: int = 30
    symbols: int = 32
    rows: int = 50_000
    test_rows: int = 1000
    attention: tuple[str, ...] = ("dot", "dense", "mixture", "random")
    steps: int = 3000
    eval_every: int = 300
    batch_size: int = 32
    optimizer: OptimizerConfig = OPTIMIZER

    def __post_init__(self):
        super().__post_init__()
        for name in ("shortest", "symbols", "rows", "test_rows"):
            check(name, getattr(self, name), low=1)
        if self.longest < self.shortest:
            raise InputError(
                f"longest must be >= shortest = {self.shortest}, got {self.longest}."
            )


def run(config: Config, *, resume: bool = False) -> None:
    """Draw the rows, train, print the table and write the run folder.

    Args:
        config: The settings.
        resume: Whether to go on with the run in `config.run`.
    """
    import numpy as np

    from zlpr_jax.data.copying import (
        BEGIN,
        FIRST_SYMBOL,
        PAD,
        SEPARATOR,
        copy_rows,
        copy_vocabulary,
    )
    from zlpr_jax.recipes._language import (
        Problem,
        check_attention,
        run_language_models,
    )
    from zlpr_jax.recipes._language_results import Column

    check_attention(config.attention)
    lengths = config.shortest, config.longest
    training, validation, test = (
        copy_rows(count, lengths=lengths, symbols=config.symbols, seed=seed)
        for count, seed in (
            (config.rows, TRAINING_SEED),
            (config.test_rows, VALIDATION_SEED),
            (config.test_rows, TEST_SEED),
        )
    )
    # a row of a size that a picture has room for
    sizes = (test.tokens != PAD).sum(1)
    row = int(np.argmin(abs(sizes - SHOWN)))
    shown = test.tokens[row][: sizes[row]].tolist()
    names = {BEGIN: "begin", SEPARATOR: "again"}
    labels = [names.get(token, str(token - FIRST_SYMBOL)) for token in shown]
    problem = Problem(
        data="the rows to copy",
        about=f"sequences of {lengths[0]} to {lengths[1]} of {config.symbols} symbols",
        training=training,
        validation=validation,
        test=test,
        vocabulary=copy_vocabulary(config.symbols),
        max_length=training.tokens.shape[1],
        headline=("accuracy", "max"),
        columns=(
            Column("held-out\naccuracy ↑", "validation", "accuracy", 4),
            Column("test\naccuracy ↑", "test", "accuracy", 4),
            Column("whole rows\nright ↑", "test", "exact", 4),
        ),
        entries={"shown": {"tokens": shown, "labels": labels}},
        files={},
    )
    run_language_models("synthesizer-copy", config, problem, resume=resume)
