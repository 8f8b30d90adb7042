"""Between the names of pretrained encoders' tensors and the paths of ours."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from zlpr_jax.models.bert import BertConfig

# Where our configuration and theirs have different names for a kind of encoder.
KINDS = {"learned": "bert", "relative": "nezha", "rotary": "roformer"}
# What both of them have, whatever the kind: it tells what stands before the names.
WORDS = "embeddings.word_embeddings.weight"
# Of what is no part of the encoder proper: nothing stands before these.
HEAD = "cls."
HEAD_WEIGHT = "cls.predictions.transform.dense.weight"
POOLER_WEIGHT = "pooler.dense.weight"
# Computed from others, or the same as others.
SINUSOIDS = "encoder.embed_positions.weight"
OUTPUT_WEIGHT = "cls.predictions.decoder.weight"
OUTPUT_BIAS = "cls.predictions.decoder.bias"
BIAS = "cls.predictions.bias"

_EMBEDDINGS = {
    "word_embeddings": "tokens",
    "position_embeddings": "positions",
    "token_type_embeddings": "token_types",
}
_BLOCK = {
    "attention.self.query": "attention/scores/0/query",
    "attention.self.key": "attention/scores/0/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "hidden",
    "output.dense": "output",
    "output.LayerNorm": "output_norm",
}
_HEAD = {
    "cls.predictions.transform.dense": "masked_head/hidden",
    "cls.predictions.transform.LayerNorm": "masked_head/norm",
}
# The ends of names in TensorFlow checkpoints, and in PyTorch files of 2019.
_ENDS = {
    "_embeddings": "_embeddings.weight",
    ".kernel": ".weight",
    ".gamma": ".weight",
    ".beta": ".bias",
    ".output_bias": ".bias",
}


class Tensor(NamedTuple):
    """A tensor of a pretrained encoder.

    Attributes:
        name: Its name in PyTorch files, without the name of the model before it.
        path: "/"-joined path of the parameter that holds it.
        layer: Its index along the first axis there; `None` for all of the parameter.
        transposed: Whether PyTorch files hold the transpose; TensorFlow's do not.
    """

    name: str
    path: str
    layer: int | None = None
    transposed: bool = False


def tensors_of(config: BertConfig) -> list[Tensor]:
    """All tensors of an encoder of this shape."""
    tensors = [
        Tensor(f"embeddings.{name}.weight", path)
        for name, path in _EMBEDDINGS.items()
        if path != "positions" or config.positions == "learned"
    ]
    tensors += _module("embeddings.LayerNorm", "norm")
    for layer in range(config.layers):
        for name, path in _BLOCK.items():
            tensors += _module(
                f"encoder.layer.{layer}.{name}", f"stack/blocks/{path}", layer
            )
    if config.pooler:
        tensors += _module("pooler.dense", "pooler")
    if config.masked_head:
        for name, path in _HEAD.items():
            tensors += _module(name, path)
        tensors.append(Tensor(BIAS, "masked_head/bias"))
    return tensors


def standard_names(stored: Iterable[str]) -> dict[str, str]:
    """Give the name of `tensors_of` for each name in a file, where there is one.

    Args:
        stored: Names in PyTorch files, old ones too, or in TensorFlow checkpoints.

    Raises:
        ValueError: If there are two encoders.

    Examples:
        >>> names = ["bert/embeddings/word_embeddings", "bert/pooler/dense/kernel"]
        >>> list(standard_names(names).values())
        ['embeddings.word_embeddings.weight', 'pooler.dense.weight']
    """
    names = {name: _as_now(name) for name in stored}
    prefixes = [
        name.removesuffix(WORDS) for name in names.values() if name.endswith(WORDS)
    ]
    if len(prefixes) > 1:
        raise ValueError(
            f"there are {len(prefixes)} encoders, {', '.join(sorted(prefixes))}: "
            "keep one of them."
        )
    prefix = "".join(prefixes)
    return {name: now.removeprefix(prefix) for name, now in names.items()}


def _as_now(name: str) -> str:
    name = re.sub(r"\.layer_(\d+)\.", r".layer.\1.", name.replace("/", "."))
    for end, now in _ENDS.items():
        if name.endswith(end):
            return name.removesuffix(end) + now
    return name


def _module(name: str, path: str, layer: int | None = None) -> list[Tensor]:
    norm = name.endswith("LayerNorm")
    weight = "scale" if norm else "kernel"
    return [
        Tensor(f"{name}.weight", f"{path}/{weight}", layer, transposed=not norm),
        Tensor(f"{name}.bias", f"{path}/bias", layer),
    ]
