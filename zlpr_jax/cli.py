"""The command line: `zlpr-jax` or `python -m zlpr_jax`.

Only the standard library is imported here, so that `--help` answers at once.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from zlpr_jax._errors import InputError
from zlpr_jax.recipes import RECIPES

# module -> distribution, for everything that an extra brings
EXTRAS = {
    "flax": "flax",
    "grain": "grain",
    "matplotlib": "matplotlib",
    "orbax": "orbax-checkpoint",
    "PIL": "pillow",
    "rich": "rich",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tensorboardX": "tensorboardX",
    "tokenizers": "tokenizers",
    "tyro": "tyro",
    "yaml": "pyyaml",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 for bad input, or 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except InputError as error:
        message, status = str(error), 2
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRAS:
            raise
        package = EXTRAS[(error.name or "").partition(".")[0]]
        message = (
            f"this command needs {package}, which is not installed: "
            'pip install "zlpr-jax[train]"'
        )
        status = 2
    except BrokenPipeError:
        # the reader of our output went away, as in `zlpr-jax list | head -1`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    print(f"zlpr-jax: error: {message}", file=sys.stderr)
    return status


def _dispatch(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="zlpr-jax", description="Multi-label learning in JAX.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    recipes = "\n".join(f"  {name:18}{text}" for name, text in RECIPES.items())
    train = commands.add_parser(
        "train",
        help="train a recipe; up to 10,000 labels ZLPR beside BCE",
        description="Train a recipe; up to 10,000 labels ZLPR beside BCE.",
        epilog=f"recipes:\n{recipes}\n\n"
        "`zlpr-jax train RECIPE --help` lists every setting.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("recipe", choices=RECIPES, metavar="RECIPE")
    train.add_argument(
        "settings",
        nargs=argparse.REMAINDER,
        help="such as --optimizer.learning-rate 3e-4, or --config FILE",
    )
    resume = commands.add_parser(
        "resume",
        help="go on with a run that was interrupted",
        description="Go on with a run that was interrupted, as if it never had been.",
    )
    _add_run(resume)
    resume.add_argument("--mesh", help="devices, such as data=4; default: as before")
    resume.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not check the files of a checkpoint first",
    )
    evaluate = commands.add_parser(
        "evaluate", help="score a trained model", description="Score a trained model."
    )
    _add_run(evaluate)
    evaluate.add_argument("--data", help="labelled file; default: the run's test rows")
    predict = commands.add_parser(
        "predict",
        help="predict labels for a file",
        description="Predict labels for a file: one JSON object per row, "
        '{"id", "labels", "scores"}.',
    )
    _add_run(predict)
    predict.add_argument("--data", required=True, help="file, or - for JSONL on stdin")
    predict.add_argument("--output", help="file to write; default: standard output")
    predict.add_argument(
        "--threshold", type=float, default=0.0, help="predict s > THRESHOLD (default 0)"
    )
    sample = commands.add_parser(
        "sample",
        help="generate images with a run of `train eae`",
        description="Generate images with a run of `zlpr-jax train eae`.",
    )
    _add_picture(sample, n=64, what="images", out="samples.png")
    paths = commands.add_parser(
        "interpolate",
        help="go from image to image with a run of `train eae`",
        description="Go from one image to another, with a run of `zlpr-jax train eae`.",
    )
    _add_picture(paths, n=8, what="paths", out="paths.png")
    paths.add_argument(
        "--steps", type=int, default=10, help="images on each path (default 10)"
    )
    paths.add_argument("--data", help="images to go between; default: generated ones")
    generate = commands.add_parser(
        "generate",
        help="go on with a text, with a run of `train synthesizer-text`",
        description="Go on with a text, with a run of `zlpr-jax train "
        "synthesizer-text`.",
    )
    _add_generation(generate)
    show = commands.add_parser(
        "show",
        help="draw what each token attends to, with a run of `train synthesizer-*`",
        description="Draw what each token attends to, by layer and head, with a run of "
        "`zlpr-jax train synthesizer-text` or `synthesizer-copy`.",
    )
    _add_run(show)
    show.add_argument("--text", help="what to read; default: a few test tokens")
    _add_out(show, "attention.png")
    commands.add_parser("list", help="list the recipes")

    options = parser.parse_args(arguments)
    match options.command:
        case "train":
            _launch().train(options.recipe, options.settings)
        case "resume":
            path, mesh, verify = options.run_path, options.mesh, options.verify
            _launch().resume(path, mesh=mesh, verify=verify)
        case "list":
            print(recipes)
        case command:
            module = importlib.import_module(f"zlpr_jax.commands.{command}")
            values = vars(options)
            values.pop("command")
            module.run(**values)
    return 0


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_path", metavar="RUN", help="run folder of `train`")


def _add_picture(
    parser: argparse.ArgumentParser, *, n: int, what: str, out: str
) -> None:
    _add_run(parser)
    parser.add_argument("--n", type=int, default=n, help=f"{what} (default {n})")
    _add_out(parser, out)
    parser.add_argument("--seed", type=int, default=0, help="of the codes (default 0)")


def _add_out(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument(
        "--out",
        default=out,
        help=f"PNG file to write, which must not exist (default {out})",
    )


def _add_generation(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--prompt", default="", help="how it begins; default: no text")
    parser.add_argument(
        "--new",
        type=int,
        help="tokens to add at most; default: 200, or less if the context ends before",
    )
    parser.add_argument(
        "--greedy", action="store_true", help="always take the most likely token"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="below 1 for likelier, above 1 for more surprising tokens (default 1)",
    )
    parser.add_argument("--top-k", type=int, help="only the K most likely tokens")
    parser.add_argument(
        "--top-p",
        type=float,
        help="only the most likely tokens that have the probability P together",
    )
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        help="above 1 for fewer repetitions (default 1)",
    )
    parser.add_argument("--n", type=int, default=1, help="texts (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")


def _launch() -> ModuleType:
    return importlib.import_module("zlpr_jax.recipes._launch")


if __name__ == "__main__":
    sys.exit(main())
