"""A trained generator of images, read back from its run folder."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.commands._complete import read_config
from zlpr_jax.models.eae import AutoencoderConfig
from zlpr_jax.tasks.image import ImageModel, make_eae
from zlpr_jax.tasks.pixels import byte_pixels
from zlpr_jax.training import load_tree, read_json


class Generator(NamedTuple):
    """What a run of `zlpr-jax train eae` learned.

    Attributes:
        config: The network.
        model: What it does.
        params: Its parameters.
        state: Its state.
    """

    config: AutoencoderConfig
    model: ImageModel
    params: PyTree
    state: PyTree

    def decode(self, codes: jax.Array) -> npt.NDArray[np.uint8]:
        """Images `[N, H, W, C]` of codes `[N, d]`."""
        images = jax.jit(self.model.decode)(self.params, self.state, codes)
        return byte_pixels(np.asarray(images))

    def encode(self, images: npt.NDArray[np.uint8]) -> jax.Array:
        """Codes `[N, d]` of images `[N, H, W, C]`."""
        return jax.jit(self.model.encode)(self.params, self.state, jnp.asarray(images))


def load_generator(path: Path) -> Generator:
    """Read a run folder.

    Raises:
        InputError: If a file is missing, damaged or does not fit the others.
    """
    stored = read_config(path, ("eae",))
    results = read_json(path / "results.json")
    try:
        network = stored["network"]
        config = AutoencoderConfig(
            image_shape=tuple(network["image_shape"]),
            latent=network["latent"],
            hidden=tuple(network["hidden"]),
            channels=tuple(network["channels"]),
        )
        model = make_eae(config, entropy_weight=float(results["chosen"]["eae"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: config.json or results.json is not what `zlpr-jax train` writes: "
            f"{error!r}"
        ) from None
    params, state = jax.eval_shape(model.task.init, jax.random.key(0))
    tree = load_tree(path / "params.safetensors", {"params": params, "state": state})
    return Generator(config, model, tree["params"], tree["state"])
