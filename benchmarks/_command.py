"""The command line of a benchmark: which figures, how often, as a table or JSON."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import jax
from _measure import ROOT, Settings, print_table


def run_figures(
    name: str, doc: str, figures: dict[Callable[[Settings], Any], float | None]
) -> None:
    """Measure the figures asked for, print them, and keep them if asked to.

    Args:
        name: of the benchmark, for the file of results.
        doc: docstring of its script.
        figures: functions that give one `Row` or several, each with what its value must
            not exceed; None is there to be read.
    """
    by_name = {figure.__name__: figure for figure in figures}
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=by_name, metavar="NAME")
    parser.add_argument("--json", action="store_true", help="one object per line")
    parser.add_argument("--quick", action="store_true", help="small shapes, no figures")
    parser.add_argument("--repeats", type=int, help="in place of what a figure takes")
    parser.add_argument("--save", action="store_true", help="into benchmarks/results")
    options = parser.parse_args()
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    if options.save and (options.quick or options.only):
        parser.error("--save keeps a whole run: leave --quick and --only away")
    settings = Settings(quick=options.quick, repeats=options.repeats)
    rows = []
    for chosen in options.only or by_name:
        print(chosen, file=sys.stderr)
        found = by_name[chosen](settings)
        for row in found if isinstance(found, list) else [found]:
            target = None if row.part else figures[by_name[chosen]]
            part = f": {row.part}" if row.part else ""
            fields = {"name": chosen + part, **asdict(row), "target": target}
            del fields["part"]
            rows.append(fields | ({"quick": True} if options.quick else {}))
            if options.json:
                print(json.dumps(rows[-1]), flush=True)
    device = jax.devices()[0].device_kind
    title = f"{device}, {_cores()} CPU cores, jax {jax.__version__}"
    if not options.json:
        quick = ", QUICK: shapes too small for the targets" * options.quick
        print_table(rows, title + quick)
    if options.save:
        slug = re.sub(r"[^a-z0-9]+", "-", device.lower())
        path = ROOT / "benchmarks" / "results" / f"{name}-{slug}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"device": title, "figures": rows}, indent=1) + "\n")


def _cores() -> int | None:
    """How many cores this process may use, where the system can tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
