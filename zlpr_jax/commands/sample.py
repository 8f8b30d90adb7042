"""`zlpr-jax sample RUN --out grid.png`: new images from a trained generator."""

from pathlib import Path

import jax

from zlpr_jax._errors import InputError
from zlpr_jax.commands._generator import load_generator
from zlpr_jax.commands._seed import seeded
from zlpr_jax.data.image_grid import check_png, image_grid, write_png

MOST = 10_000


def run(run_path: str, n: int, out: str, seed: int) -> None:
    """Decode codes from N(0, I), and write the images as one picture.

    Args:
        run_path: The run folder.
        n: How many images, in `[1, 10000]`.
        out: PNG file to write, which must not exist.
        seed: Seeds the codes, in `[0, 2**32 - 1]`.
    """
    if not 1 <= n <= MOST:
        raise InputError(f"--n must be in [1, {MOST}], got {n}.")
    key = seeded(seed)
    check_png(out)
    generator = load_generator(Path(run_path))
    codes = jax.random.normal(key, (n, generator.config.latent))
    columns = max(1, round(n**0.5))
    write_png(out, image_grid(generator.decode(codes), columns))
    print(f"{out}: {n} samples")
