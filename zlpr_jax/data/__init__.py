"""Files to records. Nothing here imports JAX.

`read` takes multi-label data sets in every common format; `read_yeast` is the set that
comes with the package river; `Tfidf` turns text into sparse features.
"""

from zlpr_jax.data.multilabel import (
    MultilabelData,
    Record,
    Schema,
    SparseRow,
    read,
    read_jsonl,
)
from zlpr_jax.data.tfidf import Tfidf
from zlpr_jax.data.yeast import read_yeast

__all__ = [
    "MultilabelData",
    "Record",
    "Schema",
    "SparseRow",
    "Tfidf",
    "read",
    "read_jsonl",
    "read_yeast",
]
