"""Pretrained encoders: Hugging Face folders and TensorFlow checkpoints."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.data._safetensors import open_folder_safetensors
from zlpr_jax.data._tensorflow import open_tensorflow
from zlpr_jax.models._convert import (
    HEAD,
    HEAD_WEIGHT,
    KINDS,
    POOLER_WEIGHT,
    SINUSOIDS,
    tensors_of,
)
from zlpr_jax.models._pretrained_config import encoder_config_json, read_encoder_config
from zlpr_jax.models._pretrained_tensors import Stored, leaves_of, shapes_of, sinusoids
from zlpr_jax.models._vocabulary import with_vocabulary
from zlpr_jax.models.bert import BertConfig

CONFIG = "config.json"
TENSORFLOW_CONFIG = "bert_config.json"
WEIGHTS = "model.safetensors"


class Pretrained(NamedTuple):
    """What a pretrained encoder's folder holds.

    Attributes:
        config: The encoder's shape.
        params: Its parameters, for `functionalize(Bert(config, ...)).apply`.
        unexpected: Tensors that no part of an encoder takes, such as the head of
            another task.
    """

    config: BertConfig
    params: PyTree
    unexpected: tuple[str, ...]


def from_pretrained(
    folder: str | Path,
    *,
    keep_tokens: Sequence[int] | npt.NDArray[np.integer] | None = None,
    compound_tokens: Sequence[Sequence[int]] = (),
    pooler: bool | None = None,
    masked_head: bool | None = None,
) -> Pretrained:
    """Read an encoder of the BERT family.

    Where the configuration says gelu, that of the error function is meant, as with
    Hugging Face; there are TensorFlow programs that mean gelu_tanh.

    Args:
        folder: With config.json and model.safetensors (or its shards), as Hugging Face
            writes them for BERT, NEZHA and RoFormer; or with bert_config.json and a
            TensorFlow checkpoint, one file that ends with .index and its data files.
        keep_tokens: Ids of the tokens to keep, in their new order; `None` for all.
        compound_tokens: New tokens behind those, each as the ids in the file that it is
            made of: its embedding is the mean of theirs.
        pooler: Whether to read the pooler; `None` reads it where there is one.
        masked_head: Whether to read the masked head; `None` reads it where there is
            one.

    Returns:
        Configuration and parameters, in the widest dtype of the file's.

    Raises:
        InputError: If a file is missing or damaged, tensors are missing, or one has
            another shape than the configuration says; before memory is taken for them.
        ValueError: If a token that there is not is to be kept.

    Examples:
        >>> import tempfile
        >>> from flax import nnx
        >>> from zlpr_jax.models.bert import Bert
        >>> from zlpr_jax.nn import functionalize
        >>> config = BertConfig(vocabulary=9, width=8, layers=1, heads=2, hidden=16)
        >>> bert = Bert(config, rngs=nnx.Rngs(0))
        >>> folder = Path(tempfile.mkdtemp()) / "bert"
        >>> save_pretrained(folder, config, functionalize(bert).params)
        >>> found = from_pretrained(folder, keep_tokens=[0, 5, 6])
        >>> found.config.vocabulary, found.params["tokens"].shape
        (3, (3, 8))
    """
    folder = Path(folder)
    config, stored = _open(folder)
    config = dataclasses.replace(
        config,
        pooler=POOLER_WEIGHT in stored.names if pooler is None else pooler,
        masked_head=HEAD_WEIGHT in stored.names if masked_head is None else masked_head,
    )
    params, unexpected = stored.read_params(config), stored.unexpected(config)
    if keep_tokens is not None or len(compound_tokens):
        config, params = with_vocabulary(config, params, keep_tokens, compound_tokens)
    return Pretrained(config, params, unexpected)


def save_pretrained(folder: str | Path, config: BertConfig, params: PyTree) -> None:
    """Write an encoder as Hugging Face does: config.json and model.safetensors.

    Args:
        folder: Made if it is not there.
        config: The encoder's shape.
        params: Its parameters.

    Raises:
        InputError: If the folder holds an encoder, or cannot be written.
        ValueError: If the parameters are not those of `config`.
    """
    import safetensors.numpy

    folder = Path(folder)
    expected = {path: leaf.shape for path, leaf in leaves_of(shapes_of(config)).items()}
    leaves = leaves_of(params)
    for path in sorted(expected.keys() | leaves.keys()):
        shape = leaves[path].shape if path in leaves else None
        if shape != expected.get(path):
            raise ValueError(
                f"{path} must have the shape {expected.get(path)}, got {shape}: the "
                "parameters are not those of the configuration."
            )
    prefix = f"{KINDS[config.positions]}." if config.masked_head else ""
    arrays: dict[str, np.ndarray] = {}
    for tensor in tensors_of(config):
        array = np.asarray(leaves[tensor.path])
        array = array if tensor.layer is None else array[tensor.layer]
        name = tensor.name if tensor.name.startswith(HEAD) else prefix + tensor.name
        arrays[name] = np.ascontiguousarray(array.T if tensor.transposed else array)
    if config.positions == "rotary":
        arrays[prefix + SINUSOIDS] = sinusoids(config).astype(leaves["tokens"].dtype)
    text = json.dumps(encoder_config_json(config), indent=2, sort_keys=True) + "\n"
    # save_file would make the file readable to its owner only
    weights = safetensors.numpy.save(arrays, {"format": "pt"})
    try:
        _write(folder, {WEIGHTS: weights, CONFIG: text.encode()})
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error}") from None


def _open(folder: Path) -> tuple[BertConfig, Stored]:
    configs = [folder / name for name in (CONFIG, TENSORFLOW_CONFIG)]
    found = [path for path in configs if path.is_file()]
    if not found:
        raise InputError(
            f"{folder}: no {CONFIG} (Hugging Face) or {TENSORFLOW_CONFIG} (TensorFlow) "
            "is there: name the folder of a pretrained encoder."
        )
    config = read_encoder_config(found[0])
    checkpoints = sorted(folder.glob("*.index"))
    everything = [*checkpoints, *sorted(folder.glob("*.safetensors"))[:1]]
    if checkpoints and len(everything) > 1:
        raise InputError(
            f"{folder}: there is more than one encoder, "
            f"{', '.join(path.name for path in everything)}: keep one of them."
        )
    if checkpoints:
        file = open_tensorflow(checkpoints[0].with_suffix(""))
    else:
        file = open_folder_safetensors(folder)
    return config, Stored.of(file, tensorflow=bool(checkpoints))


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a folder without an encoder, each whole, all or none."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, TENSORFLOW_CONFIG, "*.safetensors", "*.index"):
        if any(folder.glob(name)):
            raise InputError(f"{folder}: holds an encoder: name another folder.")
    unfinished = {name: folder / f"{name}.unfinished" for name in contents}
    try:
        for name, path in unfinished.items():
            path.write_bytes(contents[name])
        for name, path in unfinished.items():
            path.rename(folder / name)
    finally:
        for path in unfinished.values():
            path.unlink(missing_ok=True)
