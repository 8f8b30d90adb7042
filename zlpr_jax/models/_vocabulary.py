"""Fewer tokens than a pretrained encoder has, and others made of them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from zlpr_jax._typing import PyTree
from zlpr_jax.models.bert import BertConfig


def with_vocabulary(
    config: BertConfig,
    params: Any,
    keep_tokens: Sequence[int] | npt.NDArray[np.integer] | None,
    compound_tokens: Sequence[Sequence[int]],
) -> tuple[BertConfig, PyTree]:
    """Keep some tokens and add others; see `from_pretrained`.

    Raises:
        ValueError: If there is no such token, or one is kept twice.
    """
    size = config.vocabulary
    keep = np.arange(size) if keep_tokens is None else np.asarray(keep_tokens)
    parts = [np.asarray(part) for part in compound_tokens]
    for name, ids in (("keep_tokens", keep), *(("compound_tokens", p) for p in parts)):
        if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
            raise ValueError(f"{name} must hold lists of ids, got {ids!r}.")
        if ids.min() < 0 or ids.max() >= size:
            raise ValueError(
                f"{name} must hold ids in [0, {size - 1}], got {ids.min()} to "
                f"{ids.max()}."
            )
    if len(np.unique(keep)) < len(keep):
        raise ValueError("keep_tokens must hold each id once.")

    def chosen(table: jax.Array) -> jax.Array:
        rows = np.asarray(table)
        means = [rows[part].astype(np.float32).mean(0)[None] for part in parts]
        new = [mean.astype(rows.dtype) for mean in means]
        return jnp.asarray(np.concatenate([rows[keep], *new]))

    params = {**params, "tokens": chosen(params["tokens"])}
    if config.masked_head:
        head = params["masked_head"]
        params["masked_head"] = {**head, "bias": chosen(head["bias"])}
    vocabulary = len(keep) + len(parts)
    return dataclasses.replace(config, vocabulary=vocabulary), params
