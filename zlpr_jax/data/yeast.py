"""The Mulan yeast set, as the PyPI package river carries it: nothing is downloaded."""

import csv
import io

import numpy as np
from scipy.sparse import csr_array

from zlpr_jax.data._packaged import read_packaged
from zlpr_jax.data._records import MultilabelData

SHA256 = "2969cb4bab877a27adcbe17871fa0b378a1e54b98816cd6106b542ee450a1c09"
NUM_TEST = 917
NUM_FEATURES = 103


def read_yeast() -> tuple[MultilabelData, MultilabelData]:
    """The yeast set in its official split: 103 features, 14 labels.

    Returns:
        1500 training rows and 917 test rows, in Mulan's order.

    Raises:
        InputError: river is not installed, or its file is not the expected one.

    Examples:
        >>> train, test = read_yeast()
        >>> len(train), len(test), train.num_features, train.num_labels
        (1500, 917, 103, 14)

    References:
        Elisseeff and Weston, "A kernel method for multi-labelled classification",
        NIPS 2001.
    """
    path, text = read_packaged(
        "river",
        "datasets/yeast.csv.gz",
        what="yeast set",
        sha256=SHA256,
        releases=">=0.26.1,<0.27",
    )
    rows = csv.reader(io.StringIO(text))
    names = tuple(next(rows))
    table = np.array([[float(cell) for cell in row] for row in rows])
    data = MultilabelData(
        features=table[:, :NUM_FEATURES].astype(np.float32),
        labels=csr_array(table[:, NUM_FEATURES:].astype(np.int8)),
        label_names=names[NUM_FEATURES:],
        feature_names=names[:NUM_FEATURES],
        ids=tuple(str(row) for row in range(len(table))),
        path=str(path),
    )
    # river's order: Mulan's test rows first, then the training rows.
    return (
        data.take(range(NUM_TEST, len(data))),
        data.take(range(NUM_TEST)),
    )
