"""Mulan yeast: 14 functional classes of genes from 103 measurements.

    zlpr-jax train yeast

The official split, 1,500 rows to train and 917 to test, comes with the package river:
nothing is downloaded. Every setting below was found by `benchmarks/search_yeast.py`
on a fixed fifth of the training rows.

Expect two minutes on two CPU cores, and for ZLPR, mean and standard error of 5 seeds:
micro-F1 .6632 ± .0007, macro-F1 .4223 ± .0030, LRAP .7725 ± .0005.
"""

import dataclasses

from zlpr_jax.recipes._config import ExperimentConfig, ModelConfig, OptimizerConfig

MODEL = ModelConfig(hidden=(512, 256), dropout=0.5, input_dropout=0.2)
OPTIMIZER = OptimizerConfig(method="adaxw", learning_rate=1e-3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Train on Mulan yeast and compare ZLPR with BCE."""

    seeds: int = 5
    steps: int | None = 1000
    model: ModelConfig = MODEL
    optimizer: OptimizerConfig = OPTIMIZER
    bce_learning_rate: float | None = 2e-3


def run(config: Config, *, resume: bool = False) -> None:
    """Train, print the table and write the run folder.

    Args:
        config: The settings.
        resume: Whether to go on with the run in `config.run`.
    """
    from zlpr_jax.data.yeast import read_yeast
    from zlpr_jax.recipes._experiment import run_experiment

    train, test = read_yeast()
    run_experiment("yeast", config, train, test, resume=resume)
