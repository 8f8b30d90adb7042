"""`zlpr-jax interpolate RUN --out path.png`: from one image to another."""

from pathlib import Path

import jax
import jax.numpy as jnp

from zlpr_jax._errors import InputError
from zlpr_jax.commands._generator import load_generator
from zlpr_jax.commands._seed import seeded
from zlpr_jax.data._images import size_name
from zlpr_jax.data.image_grid import check_png, image_grid, write_png
from zlpr_jax.data.images import read_images
from zlpr_jax.models.eae import spherical_interpolation

MOST = 100


def run(
    run_path: str, n: int, steps: int, out: str, data: str | None, seed: int
) -> None:
    """Write a picture with a row for each path: its ends, and images between them.

    Args:
        run_path: The run folder.
        n: How many paths, in `[1, 100]`.
        steps: Images on each, the ends among them, in `[2, 100]`.
        out: PNG file to write, which must not exist.
        data: Images whose codes are the ends, drawn at random; by default the ends are
            drawn from N(0, I).
        seed: Seeds the draw, in `[0, 2**32 - 1]`.
    """
    for name, value, low in (("n", n, 1), ("steps", steps, 2)):
        if not low <= value <= MOST:
            raise InputError(f"--{name} must be in [{low}, {MOST}], got {value}.")
    key = seeded(seed)
    check_png(out)
    generator = load_generator(Path(run_path))
    if data is None:
        ends = jax.random.normal(key, (2 * n, generator.config.latent))
    else:
        images, _ = read_images(data)
        if images.image_shape != generator.config.image_shape:
            raise InputError(
                f"{data}: the images are {size_name(images.image_shape)}, those of the "
                f"run are {size_name(generator.config.image_shape)}: resize or convert "
                "them."
            )
        chosen = jax.random.choice(key, len(images), (2 * n,), replace=True)
        ends = generator.encode(images.images[jax.device_get(chosen)])
    codes = spherical_interpolation(ends[:n], ends[n:], steps)
    codes = jnp.swapaxes(codes, 0, 1).reshape(n * steps, -1)
    write_png(out, image_grid(generator.decode(codes), columns=steps))
    print(f"{out}: {n} paths of {steps} images")
