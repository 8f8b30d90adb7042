"""Parameter trees by shape: what the optimizers are measured on."""

import jax
import jax.numpy as jnp

from zlpr_jax.optim import Factoring


def shapes(tree):
    """Turn a tree of tuples into one of float32 shapes."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        tree,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def size(tree):
    """Count the parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def filled(tree, scale, seed):
    """Normal numbers of these shapes."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return treedef.unflatten(
        [
            scale * jax.random.normal(key, leaf.shape, leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
    )


def blocks(width=512, hidden=1408, vocabulary=14_824, layers=7):
    """An embedding and blocks of 12 arrays: 25.05M parameters in 85 leaves."""
    square = dict.fromkeys(("query", "key", "value", "out"), (width, width))
    wide = {"up": (width, hidden), "up_bias": (hidden,)}
    back = {"down": (hidden, width), "down_bias": (width,)}
    norms = {f"{norm}_{part}": (width,) for norm in "ab" for part in ("scale", "bias")}
    block = square | wide | back | norms
    layered = {f"block_{index}": block for index in range(layers)}
    return shapes({"embedding": (vocabulary, width)} | layered)


def equal(leaves, side):
    """Square matrices of one shape."""
    return shapes({f"kernel_{index}": (side, side) for index in range(leaves)})


def bert_base(heads):
    """109.5M parameters; attention kernels as flax has them, or as matrices."""
    width, apart = 768, (12, 64) if heads else (768,)
    norm = {"scale": (width,), "bias": (width,)}

    def dense(inputs, outputs):
        return {"kernel": inputs + outputs, "bias": outputs}

    layer = {
        "attention": {
            "query": dense((width,), apart),
            "key": dense((width,), apart),
            "value": dense((width,), apart),
            "out": dense(apart, (width,)),
            "norm": norm,
        },
        "up": dense((width,), (4 * width,)),
        "down": dense((4 * width,), (width,)),
        "norm": norm,
    }
    embeddings = {
        "word": (30_522, width),
        "position": (512, width),
        "type": (2, width),
        "norm": norm,
    }
    return shapes(
        {
            "embeddings": embeddings,
            "layers": {str(index): layer for index in range(12)},
            "pooler": dense((width,), (width,)),
        }
    )


def t5_11b():
    """11.3 billion parameters: 24 + 24 layers, 128 heads of 128, tied embeddings."""
    width, inner, hidden = 1024, 128 * 128, 65_536
    into = dict.fromkeys(("query", "key", "value"), (width, inner))
    attention = into | {"out": (inner, width), "norm": (width,)}
    feed = {"up": (width, hidden), "down": (hidden, width), "norm": (width,)}
    encoder = {"attention": attention, "feed": feed}
    decoder = encoder | {"cross": attention}

    def stack(layer):
        layers = {str(index): layer for index in range(24)}
        return {"layers": layers, "positions": (32, 128), "norm": (width,)}

    halves = {"encoder": stack(encoder), "decoder": stack(decoder)}
    return shapes({"embedding": (32_128, width)} | halves)


def stacked_decoder():
    """24 layers along the first axis of every array, as `lax.scan` takes them."""
    width, heads, hidden = 1024, (16, 64), 4096
    layer = {
        "query": (width, *heads),
        "key": (width, *heads),
        "value": (width, *heads),
        "out": (*heads, width),
        "up": (width, hidden),
        "down": (hidden, width),
        "attention_norm": (width,),
        "feed_norm": (width,),
    }
    layers = {name: (24, *shape) for name, shape in layer.items()}
    return shapes(
        {"embedding": (32_000, width), "layers": layers, "norm": {"scale": (width,)}}
    )


def layers_apart(path, shape):
    """The roles of the stacked decoder's axes: each layer is factored by itself."""
    if not path.startswith("layers/"):
        return None
    return ("batch", *Factoring().roles(path, shape[1:]))
