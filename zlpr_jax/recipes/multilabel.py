"""Any multi-label file: Mulan or MEKA ARFF, svmlight, CSV, TSV or JSONL.

zlpr-jax train multilabel --data train.arff --test test.arff
"""

import dataclasses
from pathlib import Path

from zlpr_jax.recipes._config import ExperimentConfig, check


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Train on files of your own and compare ZLPR with BCE.

    Above 10,000 labels the scores of a row are never held: features stay sparse, the
    loss is that of the output layer itself, and P@k, PSP@k and nDCG@k are measured.

    Attributes:
        data: File to train on.
        test: File to test on; without one a fixed share of the rows of `data` is kept
            apart for the test.
        test_share: That share, in (0, 1).
        labels: Which columns are labels, where the file does not say: names separated
            by commas, a pattern such as 'Class*', a number n for the first n columns
            (-n for the last n), or the one column that lists label names ('y,' with a
            comma for a single column of zeros and ones).
        max_features: Words and word pairs kept of a text, at most.
        top: Labels predicted per row, at least 5; above 10,000 labels.
    """

    data: Path
    test: Path | None = None
    test_share: float = 0.2
    labels: str | None = None
    max_features: int = 20_000
    top: int = 20

    def __post_init__(self):
        super().__post_init__()
        check("test_share", self.test_share, low=0, high=1, open_low=True)
        check("max_features", self.max_features, low=1)
        check("top", self.top, low=5)


def run(config: Config, *, resume: bool = False) -> None:
    """Read the files, train, print the table and write the run folder.

    Args:
        config: The settings.
        resume: Whether to go on with the run in `config.run`.
    """
    from zlpr_jax.data.multilabel import parse_label_spec, read
    from zlpr_jax.recipes._experiment import run_experiment, split

    labels = parse_label_spec(config.labels)
    train = read(config.data, labels=labels)
    if config.test is None:
        train, test = split(train, config.test_share)
    else:
        test = read(config.test, labels=labels, schema=train.schema)
    run_experiment(
        "multilabel",
        config,
        train,
        test,
        max_features=config.max_features,
        top=config.top,
        resume=resume,
    )
