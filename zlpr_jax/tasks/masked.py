"""Masked language modelling: hidden words from those around them."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax.data.word_rows import NO_WORD, WordRow, WordRows, stack_word_rows
from zlpr_jax.models.bert import Bert, BertConfig
from zlpr_jax.nn import functionalize
from zlpr_jax.tasks.masking import mask_words, most_chosen, words_to_choose
from zlpr_jax.tasks.token_scores import Terms, decode_rows, score_tokens

# What is hidden of the row with a number when it is scored never changes.
SCORED_SEED = 0


def make(
    config: BertConfig,
    *,
    places: int,
    mask_id: int,
    special: tuple[int, ...],
    share: float = 0.15,
    vocabulary: int | None = None,
    headline: tuple[str, Literal["max", "min"]] = ("loss", "min"),
) -> Task:
    """Build the task: a `Bert` with a masked head, trained on `L = mean -log p(token)`.

    The mean is over the tokens of the words that were chosen, see `mask_words`: in
    training other ones in every step, over those of a batch; where a row is scored
    always the same ones. Only they pass through the masked head. The scores are of a
    whole split:

    - `loss`: the same, in nats for each token.
    - `perplexity`: `exp(loss)`. Only comparable for the same vocabulary and texts.
    - `accuracy`: share of the tokens that have the highest score.

    Args:
        config: The encoder, with a masked head and without a pooler.
        places: Tokens that are chosen of a row at most: the `most_chosen` of all rows.
        mask_id: The id of [MASK].
        special: Ids of all special tokens, which no token is replaced by.
        share: Of the words of a row, in (0, 1], that are chosen.
        vocabulary: Tokens that there are; by default all that the encoder has.
        headline: See `Task`.

    Returns:
        A `Task` over `WordRows`; a prediction is a `RowScore`.

    Raises:
        ValueError: If `config`, `share`, the ids or `headline` do not fit.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> from zlpr_jax.data.word_rows import pack_words
        >>> texts = [(np.arange(5, 25), np.arange(20) // 2)]
        >>> rows = pack_words(texts, 12, cls_id=2, sep_id=3, pad_id=0)
        >>> config = BertConfig(
        ...     vocabulary=25, width=8, layers=1, heads=2, hidden=16, max_length=12,
        ...     pooler=False, masked_head=True,
        ... )
        >>> most = most_chosen(rows, 0.15)
        >>> task = make(config, places=most, mask_id=4, special=(0, 1, 2, 3, 4))
        >>> params, state = task.init(jax.random.key(0))
        >>> outputs = jax.jit(task.predict)(params, state, task.batch(rows, 4))
        >>> scores = task.score(task.decode(outputs, rows), rows)
        >>> sorted(scores)
        ['accuracy', 'loss', 'perplexity']
    """
    _check_settings(config, places, mask_id, special, share, headline[0])
    graph = nnx.eval_shape(lambda: Bert(config, rngs=nnx.Rngs(0)))
    encode = functionalize(graph).apply
    head = functionalize(graph, method="masked_logits").apply

    def init(key):
        _, params, state = functionalize(Bert(config, rngs=nnx.Rngs(key)))
        return params, state

    def batch(
        records: WordRows | Sequence[WordRow], size: int
    ) -> dict[str, np.ndarray]:
        rows = records if isinstance(records, WordRows) else stack_word_rows(records)
        _check_rows(rows, config, places, share)
        length = rows.tokens.shape[1]
        there = np.arange(size) < len(rows)

        def filled(array: np.ndarray, value: int) -> np.ndarray:
            whole = np.full((size, *array.shape[1:]), value, np.int32)
            whole[: len(array)] = array
            return whole

        lengths = filled(rows.lengths, 0)
        return {
            "tokens": filled(rows.tokens, 0),
            "words": filled(rows.words, NO_WORD),
            "real": np.arange(length)[None] < lengths[:, None],
            "choose": filled(words_to_choose(rows, share), 0),
            "number": filled(rows.numbers, 0),
            "where": there,
        }

    def terms(params, state, batch, keys, key=None):
        masked = mask_words(
            batch["tokens"],
            batch["words"],
            batch["choose"],
            keys,
            places=places,
            vocabulary=config.vocabulary if vocabulary is None else vocabulary,
            mask_id=mask_id,
            special=special,
        )
        hidden, state = encode(
            params, state, masked.tokens, where=batch["real"], key=key
        )
        hidden = jnp.take_along_axis(hidden, masked.places[..., None], axis=1)
        labels = jnp.take_along_axis(batch["tokens"], masked.places, axis=1)
        logits, state = head(params, state, hidden)
        return Terms.of(logits, labels, masked.where), state

    def loss(params, state, batch, key):
        masking, dropout = jax.random.split(key)
        keys = jax.random.split(masking, len(batch["where"]))
        found, state = terms(params, state, batch, keys, dropout)
        value, metrics = found.loss()
        return value, (state, metrics)

    def predict(params, state, batch):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            jax.random.key(SCORED_SEED), batch["number"]
        )
        return terms(params, state, batch, keys)[0].rows()

    def score(predictions, records) -> dict[str, float]:
        return score_tokens(
            predictions, "there is no word to hide, nothing to score: give more text."
        )

    return Task(
        init=init,
        batch=batch,
        loss=loss,
        predict=predict,
        decode=decode_rows,
        score=score,
        headline=headline,
    )


def _check_settings(
    config: BertConfig,
    places: int,
    mask_id: int,
    special: tuple[int, ...],
    share: float,
    score: str,
) -> None:
    if not config.masked_head or config.pooler:
        raise ValueError(
            "the encoder must have masked_head=True, and pooler=False: a pooler would "
            "learn nothing."
        )
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}.")
    if not 1 <= places <= config.max_length:
        raise ValueError(f"places must be in [1, {config.max_length}], got {places}.")
    if not all(0 <= one < config.vocabulary for one in (mask_id, *special)):
        raise ValueError(
            f"special ids must be in [0, {config.vocabulary}), got {mask_id} for "
            f"[MASK] and {special}."
        )
    if mask_id not in special or len(set(special)) == config.vocabulary:
        raise ValueError(
            f"special must hold mask_id = {mask_id}, and not all ids, got {special}."
        )
    names = ("loss", "perplexity", "accuracy")
    if score not in names:
        raise ValueError(
            f"headline must name one of {', '.join(names)}, got {score!r}."
        )


def _check_rows(rows: WordRows, config: BertConfig, places: int, share: float) -> None:
    length = rows.tokens.shape[1]
    if length > config.max_length:
        raise InputError(
            f"rows have {length} tokens and the encoder takes {config.max_length}: "
            "pack them shorter."
        )
    ids = rows.tokens
    if ids.size and not 0 <= ids.min() <= ids.max() < config.vocabulary:
        raise InputError(
            f"tokens must be in [0, {config.vocabulary}), got {ids.min()} to "
            f"{ids.max()}: encode the text with the encoder's vocabulary."
        )
    if (most := most_chosen(rows, share)) > places:
        raise InputError(
            f"of a row {most} tokens can be chosen, and places is {places}: make the "
            "task with the most_chosen of all rows."
        )
