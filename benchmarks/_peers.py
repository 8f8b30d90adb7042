"""The peers of `losses.py`, as their users write them."""

import jax
import jax.numpy as jnp


def concatenated(labels, logits):
    """bert4keras, `multilabel_categorical_crossentropy`, in JAX; float multi-hot."""
    logits = (1 - 2 * labels) * logits
    negative = logits - labels * 1e12
    positive = logits - (1 - labels) * 1e12
    zeros = jnp.zeros_like(logits[..., :1])
    negative = jnp.concatenate([negative, zeros], axis=-1)
    positive = jnp.concatenate([positive, zeros], axis=-1)
    return jax.nn.logsumexp(negative, axis=-1) + jax.nn.logsumexp(positive, axis=-1)


def multi_hot_reference(logits, labels):
    """Integer labels to a float32 multi-hot array, and two masked log-sum-exps."""
    rows = jnp.arange(len(labels))[:, None]
    multi_hot = jnp.zeros(logits.shape, jnp.float32)
    multi_hot = multi_hot.at[rows, labels].set(1.0)
    negative = jax.nn.logsumexp(jnp.where(multi_hot > 0, -jnp.inf, logits), axis=-1)
    positive = jax.nn.logsumexp(jnp.where(multi_hot > 0, -logits, -jnp.inf), axis=-1)
    return jnp.logaddexp(0.0, negative) + jnp.logaddexp(0.0, positive)


def matmuls_of_dense(hidden, kernel, gradient):
    """The three matrix products of a linear layer and its gradient."""
    return hidden @ kernel, gradient @ kernel.T, hidden.T @ gradient


def matmuls_of_blockwise(hidden, again, kernel, gradient):
    """The same, and the scores once more, from an array that the compiler must read."""
    return again @ kernel, *matmuls_of_dense(hidden, kernel, gradient)


def torch_loss_and_gradient(logits, labels):
    """ZLPR in eager torch, as in timm: masked with -inf, and a column of zeros."""
    import torch

    scores = torch.tensor(logits, requires_grad=True)
    labels = torch.tensor(labels)

    def run():
        zeros = torch.zeros_like(scores[:, :1])
        negative = torch.cat([scores.masked_fill(labels, -torch.inf), zeros], dim=1)
        positive = torch.cat([(-scores).masked_fill(~labels, -torch.inf), zeros], dim=1)
        loss = negative.logsumexp(dim=1) + positive.logsumexp(dim=1)
        return torch.autograd.grad(loss.mean(), scores)

    return run
