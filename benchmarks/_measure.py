"""Measuring side by side: interleaved times, compiled memory, and the table of rows."""

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20


class AtLeast(float):
    """A target that the value must reach; a plain number must not be exceeded."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured number.

    Attributes:
        value: the number that the target is about; None if it could not be measured.
        unit: of the value; `ratio` is ours over the first peer.
        versus: what the value was compared with, and the raw measurements.
        part: what of the figure it is; empty for the figure itself.
    """

    value: float | None
    unit: str
    versus: str
    part: str = ""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How large and how often.

    Attributes:
        quick: small shapes, to see that everything runs.
        repeats: in place of the number that a figure asks for.
    """

    quick: bool
    repeats: int | None

    def shape(self, full: tuple[int, ...], quick: tuple[int, ...]) -> tuple[int, ...]:
        """The shape to measure."""
        return quick if self.quick else full


class Program:
    """A compiled function and its arguments; calling it waits for the result."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.compiled = jax.jit(function).lower(*arguments).compile()
        self.arguments = arguments

    def __call__(self) -> Any:
        return jax.block_until_ready(self.compiled(*self.arguments))

    @property
    def temp_mib(self) -> float:
        """Memory beyond arguments and results."""
        return self.compiled.memory_analysis().temp_size_in_bytes / MIB

    @property
    def argument_mib(self) -> float:
        """Memory of the arguments."""
        return self.compiled.memory_analysis().argument_size_in_bytes / MIB


def medians(
    programs: dict[str, Callable[[], Any]], repeats: int, *, warm: bool = True
) -> dict[str, float]:
    """Median milliseconds of each, run in turns so that all meet the same machine."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for run in programs.values() if warm else ():
        run()
    for turn in range(repeats):
        # There and back: a program after a certain other one can be 5 % slower.
        order = list(programs.items())
        for name, run in order if turn % 2 else reversed(order):
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def time_ratio(
    ours: Callable[[], Any], peer: Callable[[], Any], what: str, repeats: int
) -> Row:
    """Our time over that of a peer, which `what` names."""
    times = medians({"ours": ours, "peer": peer}, repeats)
    return ratio(times["ours"], times["peer"], "ms", what)


def ratio(ours: float, peer: float, unit: str, what: str, part: str = "") -> Row:
    """Ours over a peer's, with both numbers."""
    versus = f"{short(ours)} / {short(peer)} {unit}, {what}"
    return Row(value=ours / peer, unit="ratio", versus=versus, part=part)


def short(value: float) -> str:
    """Four digits, and never an exponent for a large number."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def absent(unit: str, what: str) -> Row:
    """A row for what cannot be measured on this machine."""
    return Row(value=None, unit=unit, versus=f"not measured: {what}")


def in_fresh_process(*command: str, environment: dict[str, str], timeout: float) -> Any:
    """What a Python script prints as JSON on its last line."""
    try:
        done = subprocess.run(
            [sys.executable, *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        error.add_note(f"{error.stdout}\n{error.stderr}")
        raise
    return json.loads(done.stdout.splitlines()[-1])


def print_table(rows: Iterable[dict[str, Any]], title: str) -> None:
    """All rows, and whether each target is met."""
    table = Table(title=title, box=box.SIMPLE)
    for heading in ("name", "value", "unit", "target"):
        table.add_column(heading, no_wrap=True)
    table.add_column("versus")
    for row in rows:
        value, target, style = row["value"], row["target"], "default"
        above = isinstance(target, AtLeast)
        if value is not None and target is not None:
            met = value >= target if above else value <= target
            style = "green" if met else "red"
        table.add_row(
            re.sub(r"^.*: ", "  ", row["name"]),  # a part stands below its figure
            "-" if value is None else f"[{style}]{value:.3g}[/]",
            row["unit"],
            "" if target is None else f"{'>=' if above else '<='} {target:g}",
            row["versus"],
        )
    Console().print(table)
