"""Tasks small enough to check by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zlpr_jax._task import Task


def least_squares(direction="min", diverge=False):
    """Records are (x, y) pairs, the prediction is a number."""

    def init(key):
        return {"w": jax.random.normal(key, ())}, {"steps": jnp.zeros((), jnp.int32)}

    def batch(records, size):
        rows = np.zeros((size, 2), np.float32)
        rows[: len(records)] = records
        return {"rows": rows, "where": np.arange(size) < len(records)}

    def loss(params, state, batch, key):
        error = (params["w"] * batch["rows"][:, 0] - batch["rows"][:, 1]) ** 2
        total = jnp.where(batch["where"], error, 0).sum()
        count = batch["where"].sum().astype(jnp.float32)
        value = total / count / (0 if diverge else 1)
        state = {"steps": state["steps"] + 1}
        return value, (state, {"loss": (value * count, count)})

    def score(predictions, records):
        errors = [(p - y) ** 2 for p, (_, y) in zip(predictions, records, strict=True)]
        return {"error": float(np.mean(errors)), "rows": len(errors)}

    return Task(
        init=init,
        batch=batch,
        loss=loss,
        predict=lambda params, state, batch: params["w"] * batch["rows"][:, 0],
        decode=lambda outputs, records: list(outputs[: len(records)]),
        score=score,
        headline=("error", direction),
    )


RECORDS = [(float(x), 3.0 * x) for x in np.linspace(-1, 1, 37)]


def logistic(dropout=0.0):
    """A linear classifier with a kernel and a bias, and the loss of each label."""

    def init(key):
        return {"kernel": jax.random.normal(key, (6, 3)), "bias": jnp.zeros(3)}, {}

    def loss(params, state, batch, key):
        x = batch["x"]
        if dropout:
            x = jnp.where(jax.random.bernoulli(key, dropout, x.shape), 0, x)
        x = x.astype(params["kernel"].dtype)
        logits = (x @ params["kernel"] + params["bias"][None]).astype(jnp.float32)
        rows = optax.sigmoid_binary_cross_entropy(logits, batch["y"]).sum(-1)
        total, count = rows.sum(), jnp.float32(len(rows))
        return total / count, (state, {"loss": (total, count)})

    unused = lambda *_: None
    return Task(init, unused, loss, unused, unused, unused, ("loss", "min"))


def logistic_batch(rows=8):
    rng = np.random.default_rng(0)
    return {
        "x": jnp.asarray(rng.normal(size=(rows, 6)), jnp.float32),
        "y": jnp.asarray(rng.random((rows, 3)) < 0.4, jnp.float32),
    }
