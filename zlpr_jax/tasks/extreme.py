"""Multi-label classification with so many labels that no row of scores is ever held."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from zlpr_jax._errors import InputError
from zlpr_jax._task import Task
from zlpr_jax._typing import PyTree
from zlpr_jax.data.multilabel import MultilabelData, Record
from zlpr_jax.losses import predict_topk, zlpr_linear_loss
from zlpr_jax.models.mlp import MLP, MLPConfig
from zlpr_jax.nn import functionalize
from zlpr_jax.tasks.features import (
    DENSE_FEATURES,
    feature_lengths,
    label_rows,
    pad_rows,
    scale_features,
    scaling_state,
    stack_features,
)
from zlpr_jax.tasks.topk_scores import CUTS, inverse_propensity, topk_scores

# The mesh axes that the labels, and the rows of the output layer, are split over.
LABEL, FSDP = "label", "fsdp"
# What the columns of an output layer on a mesh are padded to a multiple of.
COLUMNS = 256
# Mean square that a row of features is brought to, at most. Without a limit it would be
# the number of features, and so large a step for what a few of them say that nothing
# is learnt at a usual learning rate.
ROW_SQUARE = 4096


class TopLabels(NamedTuple):
    """The prediction for one row.

    Attributes:
        labels: The labels with the highest scores, best first, int32 `[k]`.
        scores: Their scores, float32 `[k]`; a label is predicted where s > 0.
    """

    labels: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]


def make(
    config: MLPConfig,
    *,
    label_counts: npt.NDArray[np.integer],
    rows: int,
    scaling: tuple[np.ndarray, np.ndarray] | None = None,
    top: int = 20,
    mesh: Mesh | None = None,
) -> Task:
    """Build the task: an `MLP` whose output layer lives in `zlpr_linear_loss`.

    Features stay sparse, labels stay lists of integers, and `[batch, labels]` exists
    neither in training nor in prediction.

    On a mesh the columns of the output layer are split over its axis `label`, its rows
    over `fsdp` where they can be, and the rows of a batch over all axes but `label`.
    The columns are padded to a multiple of 256, whatever the mesh, so that a checkpoint
    fits others too; a padded one is zero, stays zero, and is neither counted nor
    predicted. The first `labels` columns are those of the task without a mesh.

    Args:
        config: The network, with at least one hidden layer.
        label_counts: Training rows that have each label, for PSP@k, `[labels]`.
        rows: Training rows.
        scaling: As for `multilabel.make`.
        top: Labels given per row, at least 5.
        mesh: Devices to compute on, with the axes `data`, `fsdp` and `label`; `None`
            for one.

    Returns:
        A `Task` over `Record`s; a prediction is a `TopLabels`.

    Raises:
        InputError: If the network has no hidden layer, or `top` is out of range.
    """
    if not config.hidden:
        raise InputError("so many labels need a hidden layer: give model.hidden one.")
    if not max(CUTS) <= top <= config.labels:
        raise InputError(f"top must be in [{max(CUTS)}, {config.labels}], got {top}.")
    weights = inverse_propensity(label_counts, rows)
    # only the graph is needed here, and no second copy of the parameters
    graph = nnx.eval_shape(lambda: MLP(config, rngs=nnx.Rngs(0)))
    encode = functionalize(graph, method="encode").apply
    output = len(config.hidden) - 1
    columns, row_axes, rules, kernel_spec = 1, (), (), P()
    if mesh is not None:
        columns, fsdp = math.lcm(COLUMNS, mesh.shape[LABEL]), mesh.shape[FSDP]
        row_axes = tuple(name for name in mesh.axis_names if name != LABEL)
        split = fsdp > 1 and config.hidden[-1] % fsdp == 0
        kernel_spec = P(FSDP if split else None, LABEL)
        layer = f"^layers/{output}/"
        rules = ((layer + "kernel$", kernel_spec), (layer + "bias$", P(LABEL)))
    # what the features lose, the first layer's initialisation makes up for
    factor = min(1.0, ROW_SQUARE / config.features) ** 0.5

    def init(key):
        _, params, state = functionalize(MLP(config, rngs=nnx.Rngs(key)))
        params["input"]["kernel"] = params["input"]["kernel"] / factor
        scale = scaling_state(config.features, scaling)
        scale["scale"] = scale["scale"] * factor
        params["layers"][output] = _padded(params["layers"][output], columns)
        return params, {"model": state, "scaling": scale}

    def hidden_of(params, state, features, key=None):
        dtype = params["input"]["kernel"].dtype
        features = scale_features(state["scaling"], features, dtype)
        hidden, model_state = encode(params, state["model"], features, key=key)
        return hidden, {**state, "model": model_state}

    def over_labels(function: Callable[..., Any], params: PyTree, *inputs: Array):
        """Call `function(kernel, *inputs, bias=)` on all labels, or on each part."""
        layer = params["layers"][output]
        if mesh is None:
            return function(layer["kernel"], *inputs, bias=layer["bias"])

        def on_part(kernel, bias, where, *inputs):
            if kernel_spec[0] is not None:
                # In this order the gradient is split over fsdp before it is summed.
                others = tuple(name for name in row_axes if name != FSDP)
                kernel = jax.lax.pcast(kernel, others, to="varying")
                kernel = jax.lax.all_gather(kernel, FSDP, axis=0, tiled=True)
            return function(kernel, *inputs, bias=bias, where=where, axis_name=LABEL)

        where = jnp.arange(layer["bias"].shape[0]) < config.labels
        specs = (kernel_spec, P(LABEL), P(LABEL), *(P(row_axes) for _ in inputs))
        run = jax.shard_map(on_part, mesh=mesh, in_specs=specs, out_specs=P(row_axes))
        return run(layer["kernel"], layer["bias"], where, *inputs)

    def lengths(records: Sequence[Record]) -> npt.NDArray[np.integer]:
        """Non-zeros and labels; so few features that they become dense count as 0."""
        pairs = feature_lengths(records) * (config.features > DENSE_FEATURES)
        return np.stack([pairs, label_rows(records)[0]], axis=1)

    def batch(
        records: Sequence[Record],
        size: int,
        lengths: npt.NDArray[np.integer] | None = None,
    ) -> dict[str, Any]:
        nonzeros, most = (None, None) if lengths is None else lengths
        labels = pad_rows(*label_rows(records), size, np.int32(-1), most)
        return {
            "features": stack_features(records, config.features, size, nonzeros),
            "labels": labels,
            "where": np.arange(size) < len(records),
        }

    def loss(params, state, batch, key):
        hidden, state = hidden_of(params, state, batch["features"], key)

        def loss_of(kernel, hidden, labels, **options):
            return zlpr_linear_loss(hidden, kernel, labels, **options)

        losses = over_labels(loss_of, params, hidden, batch["labels"])
        total = jnp.where(batch["where"], losses, 0).sum()
        count = batch["where"].sum().astype(jnp.float32)
        return total / count, (state, {"loss": (total, count)})

    def predict(params, state, batch):
        hidden, _ = hidden_of(params, state, batch["features"])

        def best_of(kernel, hidden, **options):
            return predict_topk(hidden, kernel, top, **options)

        return over_labels(best_of, params, hidden)

    def decode(outputs, records: Sequence[Record]) -> list[TopLabels]:
        scores, labels = (output[: len(records)] for output in outputs)
        return [TopLabels(*row) for row in zip(labels, scores, strict=True)]

    def score(predictions, records: Sequence[Record]) -> dict[str, float]:
        predicted = np.stack([prediction.labels for prediction in predictions])
        return topk_scores(predicted, [record.labels for record in records], weights)

    return Task(
        init=init,
        batch=batch,
        loss=loss,
        predict=predict,
        decode=decode,
        score=score,
        headline=("precision_at_1", "max"),
        lengths=lengths,
        rules=rules,
    )


def unsharded(params: PyTree, labels: int) -> PyTree:
    """The parameters on the host, as one device has them: without padded labels."""
    params = jax.device_get(params)
    output = max(params["layers"])
    layer = {
        name: array[..., :labels] for name, array in params["layers"][output].items()
    }
    return {**params, "layers": {**params["layers"], output: layer}}


def prediction_lines(
    predictions: Iterable[TopLabels], data: MultilabelData, threshold: float = 0.0
) -> Iterator[str]:
    """JSON lines `{"id", "labels": [names], "scores": {name: s}}` of the top labels."""
    for record_id, row in zip(data.ids, predictions, strict=True):
        names = [data.label_names[label] for label in row.labels]
        chosen = [n for n, s in zip(names, row.scores, strict=True) if s > threshold]
        scores = {n: float(f"{s:.6g}") for n, s in zip(names, row.scores, strict=True)}
        line = {"id": record_id, "labels": chosen, "scores": scores}
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _padded(layer: dict[str, Array], parts: int) -> dict[str, Float[Array, "..."]]:
    """The output layer with zero columns up to a multiple of `parts`."""
    more = -layer["bias"].shape[0] % parts
    return {
        "kernel": jnp.pad(layer["kernel"], ((0, 0), (0, more))),
        "bias": jnp.pad(layer["bias"], (0, more)),
    }
