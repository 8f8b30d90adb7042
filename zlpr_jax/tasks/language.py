"""Language modelling: every token from those before it."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from flax import nnx

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax.data.tokens import TokenRow, TokenRows, stack_rows
from zlpr_jax.models.decoder import Decoder, DecoderConfig
from zlpr_jax.nn import functionalize
from zlpr_jax.tasks.token_scores import RowScore, Terms, decode_rows, score_tokens

# What fills the rows that a batch has too many.
_PADDING = {"tokens": 0, "targets": -1, "segments": 0, "positions": 0}


def make(
    config: DecoderConfig,
    *,
    headline: tuple[str, Literal["max", "min"]] = ("perplexity", "min"),
) -> Task:
    """Build the task: a `Decoder`, trained on `L = mean -log p(target)`.

    The mean is over the targets that count, in training over those of a batch, and 0 if
    none does. The scores are of a whole split:

    - `loss`: the same, in nats for each token.
    - `perplexity`: `exp(loss)`. Only comparable for the same vocabulary and texts.
    - `accuracy`: share of the targets that have the highest score.
    - `exact`: share of the rows in which all have.

    Args:
        config: The network.
        headline: See `Task`.

    Returns:
        A `Task` over `TokenRows`; a prediction is a `RowScore`, so that no logits are
        kept.

    Raises:
        ValueError: If `headline` names no score.

    Examples:
        >>> import jax
        >>> from zlpr_jax.data.copying import copy_rows, copy_vocabulary
        >>> config = DecoderConfig(
        ...     vocabulary=copy_vocabulary(8), max_length=12, width=8, layers=1, heads=2
        ... )
        >>> task = make(config, headline=("accuracy", "max"))
        >>> params, state = task.init(jax.random.key(0))
        >>> rows = copy_rows(3, lengths=(1, 5), symbols=8, seed=0)
        >>> outputs = jax.jit(task.predict)(params, state, task.batch(rows, 4))
        >>> scores = task.score(task.decode(outputs, rows), rows)
        >>> sorted(scores)
        ['accuracy', 'exact', 'loss', 'perplexity']
    """
    names = ("loss", "perplexity", "accuracy", "exact")
    if headline[0] not in names:
        raise ValueError(
            f"headline must name one of {', '.join(names)}, got {headline[0]!r}."
        )
    graph = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    apply = functionalize(graph).apply

    def init(key):
        _, params, state = functionalize(Decoder(config, rngs=nnx.Rngs(key)))
        return params, state

    def batch(
        records: TokenRows | Sequence[TokenRow], size: int
    ) -> dict[str, np.ndarray]:
        rows = records if isinstance(records, TokenRows) else stack_rows(records)
        _check(rows, config)
        arrays = {}
        for name, array in rows.arrays().items():
            arrays[name] = np.full((size, array.shape[1]), _PADDING[name], np.int32)
            arrays[name][: len(array)] = array
        return {**arrays, "where": np.arange(size) < len(rows)}

    def terms(params, state, batch, key=None):
        logits, state = apply(
            params,
            state,
            batch["tokens"],
            positions=batch.get("positions"),
            segments=batch.get("segments"),
            key=key,
        )
        targets = batch["targets"]
        return Terms.of(logits, targets, targets >= 0), state

    def loss(params, state, batch, key):
        found, state = terms(params, state, batch, key)
        value, metrics = found.loss()
        return value, (state, metrics)

    def predict(params, state, batch):
        return terms(params, state, batch)[0].rows()

    return Task(
        init=init,
        batch=batch,
        loss=loss,
        predict=predict,
        decode=decode_rows,
        score=_score,
        headline=headline,
    )


def _score(predictions: Sequence[RowScore], records) -> dict[str, float]:
    scores = score_tokens(
        predictions, "no target counts, there is nothing to score: give more text."
    )
    _, tokens, hits = np.array(predictions).T
    return {**scores, "exact": float((hits == tokens)[tokens > 0].mean())}


def _check(rows: TokenRows, config: DecoderConfig) -> None:
    length = rows.tokens.shape[1]
    if length > config.max_length:
        raise InputError(
            f"rows have {length} tokens and the decoder takes {config.max_length}: "
            "pack them shorter, or train one with a larger max_length."
        )
    for name, least in (("tokens", 0), ("targets", -1)):
        ids = getattr(rows, name)
        if ids.size and not least <= ids.min() <= ids.max() < config.vocabulary:
            raise InputError(
                f"{name} must be in [{least}, {config.vocabulary}), got {ids.min()} to "
                f"{ids.max()}: encode the text with the decoder's vocabulary."
            )
