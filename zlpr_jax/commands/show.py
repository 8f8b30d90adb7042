"""`zlpr-jax show RUN --out attention.png`: what each token attends to."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from zlpr_jax._errors import InputError
from zlpr_jax.commands._language_model import (
    COPY,
    TEXT,
    load_language_model,
    read_prompt,
)
from zlpr_jax.data.image_grid import check_png
from zlpr_jax.models.decoder import Decoder
from zlpr_jax.nn import functionalize

# Tokens that a picture has room to name.
NAMED = 40
# Tried for characters that the first one lacks, where they are installed.
FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Arial Unicode MS",
)


def run(run_path: str, text: str | None, out: str) -> None:
    """Draw a picture with a row for each layer and a column for each head.

    Args:
        run_path: The run folder.
        text: What to read; by default test tokens that the run kept.
        out: PNG file to write, which must not exist.
    """
    check_png(out)
    model = load_language_model(Path(run_path), (TEXT, COPY))
    tokens, labels = model.shown["tokens"], model.shown["labels"]
    if text is not None:
        if model.vocabulary is None:
            raise InputError(
                f"{run_path}: the run was not trained on text: leave --text out."
            )
        tokens = read_prompt(model.vocabulary, text)
        labels = [model.vocabulary.tokens[token] for token in tokens]
    if len(tokens) > model.config.max_length:
        raise InputError(
            f"the text has {len(tokens)} tokens with <end> before it, the model takes "
            f"{model.config.max_length} at most: shorten it."
        )
    graph = nnx.eval_shape(lambda: Decoder(model.config, rngs=nnx.Rngs(0)))
    attended = jax.jit(functionalize(graph, method="attended").apply)
    found, _ = attended(model.params, model.state, jnp.array([tokens], jnp.int32))
    title = f"attention {model.attention}: what each token (row) attends to (column)"
    draw(out, np.asarray(found)[:, 0], labels, title)
    layers, heads = found.shape[0], found.shape[2]
    print(f"{out}: {layers} layers of {heads} heads, {len(tokens)} tokens")


def draw(
    path: str, attended: npt.NDArray[np.float32], labels: Sequence[str], title: str
) -> None:
    """Draw a heat map per layer and head, all of the same colours.

    Args:
        path: PNG file to write.
        attended: `[layers, heads, T, T]`, in [0, 1].
        labels: The tokens; many are not named.
        title: Of the whole.

    Raises:
        InputError: If the file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    layers, heads, length, _ = attended.shape
    named = length <= NAMED
    side = max(2.4, 0.13 * length) if named else 3.2
    fonts = [name for name in FONTS if name in installed]
    picture = io.BytesIO()
    with matplotlib.rc_context({"font.family": fonts}), warnings.catch_warnings():
        # a box stands for a character that no font has
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        size = (side * heads + 1.8, side * layers + 1.2)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        places = figure.subplots(layers, heads, squeeze=False, sharex=True, sharey=True)
        # small shares stay visible
        colours = ScalarMappable(PowerNorm(0.5, 0, 1), "Blues")
        for (layer, head), axes in np.ndenumerate(places):
            axes.imshow(attended[layer, head], cmap=colours.cmap, norm=colours.norm)
            axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
            if named:
                names = [_printed(label) for label in labels]
                style = {"fontsize": 6, "parse_math": False}
                axes.set_xticks(range(length), names, rotation=90, **style)
                axes.set_yticks(range(length), names, **style)
            axes.tick_params(length=2)
        figure.colorbar(colours, ax=places, shrink=0.6, label="share of attention")
        figure.suptitle(title, fontsize=10, parse_math=False)
        figure.savefig(picture, dpi=130, metadata={"Software": "zlpr_jax"})
    write_new(path, picture.getvalue())


def write_new(path: str, content: bytes) -> None:
    """Write a file that must not exist."""
    try:
        with open(path, "xb") as stream:
            stream.write(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from None


def _printed(label: str) -> str:
    """A token as a tick label: white space would be nothing, a long word too much."""
    shown = label if label.strip() else repr(label)[1:-1].replace(" ", "␣")
    return shown if len(shown) <= 14 else f"{shown[:13]}…"
