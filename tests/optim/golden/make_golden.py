"""Write reference.json: trajectories of other implementations.

Not run by the tests. Each part can be made by itself, in an environment that has what
it needs, and leaves the other parts as they are:

    python tests/optim/golden/make_golden.py torch hugging_face  # torch, transformers
    python tests/optim/golden/make_golden.py optax adax  # optax, NumPy

The problem is the same for everyone and needs no random generator: parameters and
gradients are sines of the entry's index, in float64.
"""

import importlib.metadata
import json
import math
import sys
from pathlib import Path

import numpy as np

STEPS = 20
STORED = [1, 5, STEPS]
SHAPES = {"kernel": (12, 8), "bias": (8,)}
TARGET = Path(__file__).with_name("reference.json")


def parameters():
    def parameter(shape):
        index = np.arange(math.prod(shape), dtype=np.float64)
        return (0.5 * np.sin(1.0 + index)).reshape(shape)

    return {name: parameter(shape) for name, shape in SHAPES.items()}


def gradients(step):
    size = 10.0 ** ((step * 7) % 5 - 2)

    def gradient(shape):
        index = np.arange(math.prod(shape), dtype=np.float64)
        change = 1.0 + 0.9 * np.sin(0.7 * step + index)
        return (size * change * np.sin(1.3 * index + 0.2)).reshape(shape)

    return {name: gradient(shape) for name, shape in SHAPES.items()}


def trajectory(step):
    """Return the parameters after some of the steps of `step(gradients)`."""
    path = [step(gradients(t)) for t in range(1, STEPS + 1)]
    return {n: [path[t - 1][n].flatten().tolist() for t in STORED] for n in SHAPES}


def by_torch(build):
    import torch

    held = {n: torch.nn.Parameter(torch.tensor(p)) for n, p in parameters().items()}
    optimizer = build(list(held.values()))

    def step(grads):
        for name, parameter in held.items():
            parameter.grad = torch.tensor(grads[name])
        optimizer.step()
        return {name: p.detach().numpy().copy() for name, p in held.items()}

    return trajectory(step)


def torch():
    from torch.optim import Adafactor

    # torch clamps the estimate at eps1 where the paper adds it to the square.
    return {"torch": by_torch(lambda p: Adafactor(p, eps=(1e-15, 1e-3)))}


def hugging_face():
    from transformers.optimization import Adafactor

    def with_momentum(params):
        return Adafactor(params, lr=0.01, relative_step=False, beta1=0.9)

    return {
        "hugging_face": by_torch(Adafactor),
        "hugging_face_momentum": by_torch(with_momentum),
    }


def optax():
    import jax
    import jax.numpy as jnp
    from optax import adafactor, apply_updates

    jax.config.update("jax_enable_x64", True)
    # Without a learning rate it would not take the paper's relative step.
    tx = adafactor(
        lambda count: jnp.minimum(1e-2, 1 / jnp.sqrt(count + 1.0)),
        min_dim_size_to_factor=1,
    )
    params = jax.tree.map(jnp.asarray, parameters())
    state = tx.init(params)

    def step(grads):
        nonlocal params, state
        updates, state = tx.update(jax.tree.map(jnp.asarray, grads), state, params)
        params = apply_updates(params, updates)
        return jax.tree.map(np.asarray, params)

    return {"optax": trajectory(step)}


def recurrence(lr, l2=0.0, weight_decay=0.0, b1=0.9, b2=1e-4, eps=1e-12):
    """AdaX as its authors' code has it: v grows, and eps stands beside its root."""
    params = parameters()
    m = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    v = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    t = 0

    def step(grads):
        nonlocal t
        t += 1
        for name, p in params.items():
            g = grads[name] + l2 * p
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = (1 + b2) * v[name] + b2 * g**2
            rate = lr * math.sqrt((1 + b2) ** t - 1)
            kept = p - lr * weight_decay * p
            params[name] = kept - rate * m[name] / (np.sqrt(v[name]) + eps)
        return dict(params)

    return trajectory(step)


def adax():
    # Their rate with the penalty is 1.5e-3: too short a way beside float32 parameters.
    return {
        "adax": recurrence(lr=5e-3, l2=5e-4),
        "adaxw": recurrence(lr=5e-3, weight_decay=5e-2),
    }


# What makes each part, and the packages whose versions are noted beside it.
PARTS = {
    "torch": (torch, ["torch"]),
    "hugging_face": (hugging_face, ["torch", "transformers"]),
    "optax": (optax, ["jax", "optax"]),
    "adax": (adax, ["numpy"]),
}


def main():
    names = sys.argv[1:] or list(PARTS)
    reference = {"made_with": {}}
    if TARGET.exists():
        reference = json.loads(TARGET.read_text())
    reference["steps"] = STORED
    for name in names:
        make, packages = PARTS[name]
        reference |= make()
        reference["made_with"] |= {p: importlib.metadata.version(p) for p in packages}
    TARGET.write_text(json.dumps(reference, indent=1) + "\n")


if __name__ == "__main__":
    main()
