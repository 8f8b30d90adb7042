"""Attention in NumPy and float64, from the equations alone: slow loops, no tricks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from zlpr_jax.nn import functionalize

# compilation is most of what these tests cost; later versions do not have the option
QUICK = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}


def jit(function, **options):
    """`jax.jit` for what runs once or twice."""
    return jax.jit(function, compiler_options=QUICK, **options)


def rngs(seed=0):
    return nnx.Rngs(seed)


def noisy(make, scale=0.3, seed=0, dtype=np.float32):
    """What `make` gives, with noise in all its arrays.

    A test of initial parameters would not see biases, mixtures and normalisation. And
    nothing is compiled to initialise it.
    """
    graph, arrays = nnx.split(nnx.eval_shape(make))
    rng = np.random.default_rng(seed)
    noise = jax.tree.map(lambda x: scale * rng.normal(size=x.shape), arrays)
    return nnx.merge(graph, jax.tree.map(lambda x: jnp.asarray(x, dtype), noise))


def weights(module):
    """The arrays of a module, trained or not, as nested dicts of float64."""
    _, params, state = functionalize(module)
    return as_float64(_merged(params, state))


def as_float64(tree):
    """The arrays of a tree in float64."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def _merged(one, other):
    both = {**other, **one}
    for name in one.keys() & other.keys():
        both[name] = _merged(one[name], other[name])
    return both


def linear(x, layer):
    y = x @ layer["kernel"]
    return y + layer["bias"] if "bias" in layer else y


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rotated(x, positions):
    """`x` is `[B, T, H, d]`: a pair is a complex number, turned by an angle."""
    d = x.shape[-1]
    z = x[..., 0::2] + 1j * x[..., 1::2]
    for i in range(d // 2):
        angle = positions * 10000.0 ** (-2 * i / d)
        z[..., i] *= np.exp(1j * angle)[..., None]
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)


def relative_vectors(queries, keys, distance, d):
    """`a_ij`, `[B, T, S, d]`, for positions `[B, T]` and `[B, S]`."""
    offset = keys[:, None, :] - queries[:, :, None]
    offset = np.where(offset > distance, distance, offset)
    offset = np.where(offset < -distance, -distance, offset)
    a = np.zeros((*offset.shape, d))
    for i in range(d // 2):
        angle = (offset + distance) / 10000.0 ** (2 * i / d)
        a[..., 2 * i], a[..., 2 * i + 1] = np.sin(angle), np.cos(angle)
    return a


def dot_logits(w, x, heads, positions, *, rotary=False, relative=None):
    """`q_i (k_j + a_ij) / sqrt(d)`, `[B, H, T, T]`."""
    q, k = (
        linear(x, w[name]).reshape(*x.shape[:2], heads, -1) for name in ("query", "key")
    )
    d = q.shape[-1]
    if rotary:
        q, k = rotated(q, positions), rotated(k, positions)
    k = k[:, None]  # of every query its own: [B, T, S, H, d]
    if relative is not None:
        k = k + relative_vectors(positions, positions, relative, d)[:, :, :, None]
    return (q[:, :, None] * k).sum(-1).transpose(0, 3, 1, 2) / d**0.5


def dense_rows(w, x, heads):
    """`W2 relu(W1 x_i + b1) + b2`, `[B, H, T, N]`."""
    count, length, width = x.shape
    d = width // heads
    kernel, bias = w["output"]["kernel"], w["output"].get("bias")
    rows = np.zeros((count, heads, length, kernel.shape[-1]))
    first = w["hidden"]["linear"]
    for h in range(heads):
        own = slice(h * d, (h + 1) * d)
        if first["kernel"].ndim == 3:  # each head sees its own part of the token
            hidden = x[..., own] @ first["kernel"][h]
            hidden = hidden + (first["bias"][h] if "bias" in first else 0)
        else:
            hidden = linear(x, first)[..., own]
        rows[:, h] = np.maximum(hidden, 0) @ kernel[h]
        rows[:, h] += 0 if bias is None else bias[h]
    return rows


def factorized_dense_rows(w, x, heads, factors):
    """`B_i[j] = a_i[j mod a] b_i[j // a]`, `[B, H, T, a b]`."""
    a, b = factors
    both = dense_rows(w, x, heads)
    first, second = both[..., :a], both[..., a:]
    assert second.shape[-1] == b
    columns = [first[..., j % a] * second[..., j // a] for j in range(a * b)]
    return np.stack(columns, axis=-1)


def by_position(table, positions):
    """`[B, H, T, S]` from a table `[B or 1, H, N or T, N]` of rows and columns."""
    table = np.broadcast_to(table, (len(positions), *table.shape[1:]))
    return np.stack(
        [one[:, row][:, :, row] for one, row in zip(table, positions, strict=True)]
    )


def columns_by_position(rows, positions):
    """`[B, H, T, S]` from rows `[B, H, T, N]` that belong to the queries."""
    return np.stack(
        [one[..., row] for one, row in zip(rows, positions, strict=True)], axis=0
    )


def attended(logits, mask):
    """Softmax among what the mask `[B, 1, T, S]` allows, query by query."""
    logits, mask = np.broadcast_arrays(logits, mask)
    p = np.zeros(logits.shape)
    for index in np.ndindex(logits.shape[:-1]):
        allowed = mask[index]
        if allowed.any():
            p[index][allowed] = softmax(logits[index][allowed])
    return p


def attention(w, x, logits, mask, positions, *, relative=None):
    """`sum_j p_ij (v_j + a_ij)`, heads joined; `logits` is a list of `[B, H, T, T]`."""
    heads = logits[0].shape[1]
    v = linear(x, w["value"]).reshape(*x.shape[:2], heads, -1)
    if "mixture" in w:
        e = np.exp(w["mixture"])
        alpha = np.broadcast_to(e / e.sum(0), (len(logits), heads))
    else:
        alpha = np.ones((1, heads))
    mixed = sum(
        a[None, :, None, None] * one for a, one in zip(alpha, logits, strict=True)
    )
    p = attended(mixed, mask)
    v = v[:, None]  # [B, T, S, H, d]
    if relative is not None:
        a = relative_vectors(positions, positions, relative, v.shape[-1])
        v = v + a[:, :, :, None]
    y = (p.transpose(0, 2, 3, 1)[..., None] * v).sum(2)
    return linear(y.reshape(x.shape), w["output"])


def normalised(x, epsilon):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon)


def layer_norm(x, w, epsilon):
    return normalised(x, epsilon) * w["scale"] + w["bias"]


def gelu(x):
    """The form with tanh."""
    return x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
