"""Between the config.json of pretrained encoders and ours."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from zlpr_jax._errors import InputError
from zlpr_jax.models._convert import KINDS
from zlpr_jax.models.bert import BertConfig

# Their name for each of our fields, and what they take where the file has none.
_INTEGERS: dict[str, tuple[str, int | None]] = {
    "vocabulary": ("vocab_size", None),
    "width": ("hidden_size", None),
    "layers": ("num_hidden_layers", None),
    "heads": ("num_attention_heads", None),
    "hidden": ("intermediate_size", None),
    "max_length": ("max_position_embeddings", None),
    "token_types": ("type_vocab_size", 2),
    "distance": ("max_relative_position", 64),
}
_NUMBERS: dict[str, tuple[str, float]] = {
    "epsilon": ("layer_norm_eps", 1e-12),
    "dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
}
# gelu_new and its likes are one function.
_ACTIVATIONS: dict[str, Any] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}
# Settings of variants that are other models, and the only value taken.
_ONLY: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "rotary_value": False,
}
_NAMES = {"bert": "Bert", "nezha": "Nezha", "roformer": "RoFormer"}


def read_encoder_config(path: Path) -> BertConfig:
    """Read the config.json of Hugging Face or the bert_config.json of TensorFlow.

    Returns:
        The configuration, without pooler and masked head: the tensors tell.

    Raises:
        InputError: If the file is damaged, or of another kind of model.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable configuration: {error}") from None
    if not isinstance(stored, dict):
        raise InputError(f"{path}: expected a JSON object, got {stored!r}.")
    positions = _positions(path, stored)
    for name, only in _ONLY.items():
        if stored.get(name) not in (only, None):
            raise InputError(
                f"{path}: {name} is {stored[name]!r}; only {only!r} is supported."
            )
    values = {
        ours: _number(path, stored, *names)
        for ours, names in (_INTEGERS | _NUMBERS).items()
    }
    embedding = stored.get("embedding_size")
    if embedding not in (None, values["width"]):
        raise InputError(
            f"{path}: embedding_size is {embedding!r} and hidden_size "
            f"{values['width']}; only equal ones are supported."
        )
    activation = stored.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise InputError(
            f"{path}: hidden_act is {activation!r}; expected one of "
            f"{', '.join(_ACTIVATIONS)}."
        )
    try:
        return BertConfig(
            **values,
            positions=positions,
            activation=_ACTIVATIONS[activation],
            pooler=False,
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def encoder_config_json(config: BertConfig) -> dict[str, Any]:
    """What transformers reads the shape of an encoder from."""
    kind = KINDS[config.positions]
    fields = dict(_INTEGERS | _NUMBERS)
    special: dict[str, Any] = {}
    if kind == "nezha":
        special = {"use_relative_position": True}
    else:
        del fields["distance"]
    if kind == "roformer":
        special = {"embedding_size": config.width, "rotary_value": False}
    values = dataclasses.asdict(config)
    return {
        "architectures": [
            _NAMES[kind] + ("ForMaskedLM" if config.masked_head else "Model")
        ],
        "model_type": kind,
        **{theirs: values[ours] for ours, (theirs, _) in fields.items()},
        "hidden_act": {"gelu_tanh": "gelu_new"}.get(
            config.activation, config.activation
        ),
        **special,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }


def _positions(path: Path, stored: dict[str, Any]) -> Any:
    kind = stored.get("model_type")
    # a bert_config.json has no model_type, and that of NEZHA may say bert
    if kind in (None, "bert"):
        kind = "nezha" if stored.get("use_relative_position") else "bert"
    positions = {kind: positions for positions, kind in KINDS.items()}
    if not isinstance(kind, str) or kind not in positions:
        raise InputError(
            f"{path}: model_type is {kind!r}; expected {', '.join(positions)}."
        )
    return positions[kind]


def _number(
    path: Path, stored: dict[str, Any], name: str, default: int | float | None
) -> Any:
    value = stored.get(name, default)
    if value is None:
        raise InputError(f"{path}: {name} is missing.")
    kinds = (int, float) if isinstance(default, float) else int
    if isinstance(value, bool) or not isinstance(value, kinds):
        wanted = "an integer" if kinds is int else "a number"
        raise InputError(f"{path}: {name} must be {wanted}, got {value!r}.")
    if not -(2**31) < value < 2**31:
        raise InputError(f"{path}: {name} is out of range, got {value!r}.")
    return value if kinds is int else float(value)
