"""Kill a training run with SIGKILL at random moments, resume it, and compare.

    JAX_PLATFORMS=cpu python benchmarks/kill_resume.py [--kills 20] [--seed N] [--json]

One run of `zlpr-jax train yeast` is left alone. Every other one kills itself once: at
any moment of training, while a checkpoint is being written, or between Orbax's commit
and the digests. `zlpr-jax resume` then has to finish it with the same parameters and
the same `metrics.jsonl`, byte for byte.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SETTINGS = (
    *("--losses", "zlpr", "--seeds", "1", "--steps", "300", "--eval-every", "20"),
    *("--report-every", "10", "--save-every", "7", "--batch-size", "64"),
)
MOMENTS = ("training", "save", "commit")
RESULTS = ("params.safetensors", "metrics.jsonl", "predictions.jsonl")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of the moments")
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args()
    seed = (
        random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    )
    print(f"seed {seed}", file=sys.stderr)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as parent:
        whole = Path(parent) / "whole"
        told = train(whole, "never", 0, 0)
        assert told.returncode == 0, told.stderr
        facts = json.loads(told.stderr.splitlines()[-1])
        rows = []
        for number in range(options.kills):
            # of twenty: eleven anywhere, six during a save, three after a commit
            moment = MOMENTS[0 if number % 20 < 11 else 1 if number % 20 < 17 else 2]
            after, at = {
                "training": (rng.randrange(facts["steps"]), rng.uniform(0, 0.02)),
                "save": (rng.randrange(facts["saves"]), rng.uniform(0, facts["save"])),
                "commit": (rng.randrange(facts["saves"]), rng.uniform(0, 0.002)),
            }[moment]
            run = Path(parent) / f"killed-{number}"
            rows.append(trial(run, whole, moment, after, at))
            print(f"{number + 1}: {rows[-1]}", file=sys.stderr)
            shutil.rmtree(run, ignore_errors=True)
    good = sum(row["same"] for row in rows)
    counts = {
        "killed during a save": sum(row["left"] == "torn save" for row in rows),
        "killed between commit and digests": sum(
            row["left"] == "no digests" for row in rows
        ),
    }
    lines = [("kill_resume", good, f"of {len(rows)} finish with identical files")]
    lines += [(f"kill_resume: {name}", n, f"seed {seed}") for name, n in counts.items()]
    for name, value, versus in lines:
        if options.json:
            row = {"name": name, "value": value, "unit": "runs", "versus": versus}
            print(json.dumps(row))
        else:
            print(f"{name:45} {value:3} {versus}")
    return 0 if good == len(rows) else 1


def trial(run: Path, whole: Path, moment: str, after: int, at: float) -> dict:
    """Kill one run, resume it, and say what became of it."""
    killed = train(run, moment, at, after)
    left = "nothing special"
    for folder in run.glob("checkpoints/*/*"):
        if "orbax-checkpoint-tmp" in folder.name:
            left = "torn save"
        elif folder.name.isdecimal() and not (folder / "digests.json").exists():
            left = "no digests"
    step = max(
        (int(p.name) for p in run.glob("checkpoints/*/*") if p.name.isdecimal()),
        default=0,
    )
    resumed = zlpr_jax("resume", str(run))
    dead = killed.returncode == -signal.SIGKILL
    same = (
        dead
        and resumed.returncode == 0
        and all(
            (run / name).read_bytes() == (whole / name).read_bytes() for name in RESULTS
        )
    )
    if not same:
        print(resumed.stdout + resumed.stderr, file=sys.stderr)
    return {
        "moment": moment,
        "killed": dead,
        "newest step": step,
        "left": left,
        "same": same,
    }


def train(run: Path, moment: str, at: float, after: int):
    child = (sys.executable, __file__, "--child", moment, str(at), str(after))
    arguments = ("train", "yeast", "--run", str(run), *SETTINGS)
    return subprocess.run((*child, *arguments), capture_output=True, text=True)


def zlpr_jax(*arguments: str):
    command = (sys.executable, "-m", "zlpr_jax", *arguments)
    return subprocess.run(command, capture_output=True, text=True)


def child(moment: str, at: float, after: int, arguments: list[str]) -> int:
    """Run the command line and die at a moment of it.

    Args:
        moment: `training`: `at` seconds after the step number `after`; `save`: `at`
            seconds into the save number `after`; `commit`: `at` seconds after its
            commit, with the writing of digests held up.
        at: Seconds.
        after: Number of a step or save, over all fits.
        arguments: Of `zlpr-jax`.
    """
    from zlpr_jax import cli
    from zlpr_jax.training import _checkpoint, _fit, _step_folders

    saves, lengths, steps = [], [], itertools.count()
    step, save, digests = (
        _fit.train_step,
        _checkpoint.ocp.AsyncCheckpointer.save,  # of those that write something
        _step_folders.write_digests,
    )

    def die(seconds: float) -> None:
        def kill() -> None:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()

    def timed_step(*values, **options):
        if next(steps) == after and moment == "training":
            die(at)
        return step(*values, **options)

    def timed_save(*values, **options):
        saves.append(time.perf_counter())
        if moment == "save" and len(saves) == after + 1:
            die(at)
        return save(*values, **options)

    def timed_digests(*values, **options):
        if moment == "commit" and len(saves) == after + 1:
            die(at)
            time.sleep(1)
        result = digests(*values, **options)
        lengths.append(time.perf_counter() - saves[-1])
        return result

    _fit.train_step = timed_step
    _checkpoint.ocp.AsyncCheckpointer.save = timed_save
    _step_folders.write_digests = timed_digests
    status = cli.main(arguments)
    print(
        json.dumps(
            {
                "steps": next(steps),
                "saves": len(saves),
                "save": sorted(lengths)[len(lengths) // 2],
            }
        ),
        file=sys.stderr,
    )
    return status


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        if sys.argv[1:2] == ["--child"]:
            what, seconds, number, *rest = sys.argv[2:]
            sys.exit(child(what, float(seconds), int(number), rest))
        sys.exit(main())
