"""The messages of the loss on spans: what was expected, what came, what to do."""

import jax
import jax.numpy as jnp
import pytest

from zlpr_jax.losses import zlpr_span_loss

Q = jnp.zeros((2, 5, 3))
S = jnp.zeros((2, 1, 2), jnp.int32)
W = jnp.ones((2, 5), bool)

TYPE_ERRORS = [
    ((S, Q, S), {}, r"query must be floating point, got int32.*astype"),
    ((Q, W, S), {}, r"key must be floating point, got bool"),
    ((Q.astype(jnp.complex64), Q, S), {}, r"query must be floating.*complex64"),
    (
        (Q.astype(jnp.bfloat16), Q, S),
        {},
        r"key must have the dtype of query, bfloat16, got float32: cast one",
    ),
    ((Q, Q, Q), {}, r"spans must be integers, got float32: pass pairs"),
    ((Q, Q, S == 0), {}, r"spans must be integers, got bool: pass pairs"),
    ((Q, Q, S), {"where": Q}, r"where must be boolean, got float32: compare"),
    ((Q, Q, S), {"block_size": 2.0}, r"block_size must be an int, got 2\.0: pass the"),
    ((Q, Q, S), {"block_size": True}, r"block_size must be an int, got True: pass the"),
]

VALUE_ERRORS = [
    ((Q[0, 0], Q, S), {}, r"query must be \[\.\.\., L, D\], got \(3,\): pass a vec"),
    ((Q, Q[..., :2], S), {}, r"key must have the shape \(2, 5, 3\).*got \(2, 5, 2\)"),
    ((Q, Q[:, :4], S), {}, r"key must have the shape \(2, 5, 3\).*query.*\(2, 4, 3\)"),
    ((Q, Q[0], S), {}, r"key must have the shape \(2, 5, 3\).*got \(5, 3\).*broad"),
    ((Q, Q, S[0, 0]), {}, r"spans must be \[\.\.\., K, 2\], got \(2,\): pass pairs"),
    ((Q, Q, S[:1]), {}, r"spans must have the shape \(2, 1, 2\).*got \(1, 1, 2\)"),
    ((Q, Q, S[0]), {}, r"spans must have the shape \(2, 1, 2\).*K.*got \(1, 2\)"),
    ((Q, Q, S[..., :1]), {}, r"spans must have the shape \(2, 1, 2\).*\(2, 1, 1\)"),
    ((Q, Q, S), {"where": W[0]}, r"where must have the shape \(2, 5\).*got \(5,\)"),
    ((Q, Q, S), {"block_size": 0}, r"block_size must be at least 1, got 0: pass the"),
    ((Q, Q, S), {"block_size": -4}, r"block_size must be at least 1, got -4"),
]


@pytest.mark.parametrize(
    ("error", "args", "options", "message"),
    [(TypeError, *one) for one in TYPE_ERRORS]
    + [(ValueError, *one) for one in VALUE_ERRORS],
)
def test_message(error, args, options, message):
    with pytest.raises(error, match=message):
        zlpr_span_loss(*args, **options)


def test_raised_at_trace_time():
    with pytest.raises(ValueError, match="key must have the shape"):
        jax.eval_shape(zlpr_span_loss, Q, Q[0], S)


def test_tunables_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        zlpr_span_loss(Q, Q, S, W)
