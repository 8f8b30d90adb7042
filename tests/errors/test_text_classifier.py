"""What the classifier of texts says of shapes that cannot be."""

import pytest

from zlpr_jax.models.bert import BertConfig
from zlpr_jax.models.text_classifier import TextClassifierConfig

ENCODER = BertConfig(vocabulary=9, width=8, heads=2, pooler=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": 0}, "labels must be >= 1, got 0"),
        ({"pooling": "max"}, "pooling must be mean or first, got 'max'"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"encoder": BertConfig(vocabulary=9, width=8, heads=2)}, "pooler=False"),
    ],
)
def test_wrong_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TextClassifierConfig(**{"encoder": ENCODER, "labels": 3, **changes})
