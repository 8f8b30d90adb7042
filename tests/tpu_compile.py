"""The TPU compiler on a machine without a TPU: what it says about a program.

    measured = call(programs, "v5e:16x16")  # a function of a file, in a fresh process

`programs` describes its arrays with `spread` over the `devices` of a topology and
returns what `measure` says of the programs it compiled. It needs libtpu, which
`pip install "zlpr-jax[tpu]"` installs.
"""

import importlib.util
import inspect
import json
import math
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = importlib.util.find_spec("libtpu") is not None
ENVIRONMENT = {
    # The abstract devices of a topology come from libtpu whatever the platform is.
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Without it a second process aborts on a lock file.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # The cost model of libtpu recurses past its default stack on steps of transformers.
    "LIBTPU_INIT_ARGS": "--fibers_default_thread_stack_size=4194304",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
}
COLLECTIVE = re.compile(
    r"\b(all-gather|all-reduce|all-to-all|collective-broadcast|collective-permute|"
    r"ragged-all-to-all|reduce-scatter|send|recv)(?:-start)?\("
)


# Of an array in the text of a compiled program: the numbers between its brackets.
ARRAY = re.compile(r"\b(?:pred|bf16|f8\w*|[cfsu]\d+)\[(\d[\d,]*)\]")


def call(function: Callable[..., Any], *arguments: Any, timeout: float = 300) -> Any:
    """`function(*arguments)` from a fresh process; arguments and result are JSON.

    The function stands at the top level of its file. A failure, or a process that runs
    past `timeout` seconds, raises with what it printed.
    """
    command = (__file__, inspect.getfile(function), function.__name__)
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", *command, json.dumps(arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        error.add_note(f"{error.stdout}\n{error.stderr}")
        raise
    return json.loads(done.stdout.splitlines()[-1])


def devices(topology: str) -> list[Any]:
    """The abstract devices of a topology such as `v5e:2x4`."""
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def spread(shape: tuple[int, ...], dtype: Any, sharding: Any) -> Any:
    """An array without numbers, laid out by `sharding`."""
    import jax

    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def measure(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Compile, and say what a device needs and what travels.

    Returns:
        `temp_mib`, `argument_mib`, `output_mib`: memory of one device. What the
        compiler keeps in the fast memory of the chip is in none of them.
        `largest`: the most elements that an array of the program has on a device.
        `collectives`: the kinds of communication, sorted.
    """
    import jax

    compiled = jax.jit(function).lower(*arguments).compile()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    shapes = [match.split(",") for match in set(ARRAY.findall(text))]
    return {
        "temp_mib": memory.temp_size_in_bytes / 2**20,
        "argument_mib": memory.argument_size_in_bytes / 2**20,
        "output_mib": memory.output_size_in_bytes / 2**20,
        "largest": max(math.prod(map(int, shape)) for shape in shapes),
        "collectives": sorted(set(COLLECTIVE.findall(text))),
    }


if __name__ == "__main__":
    file, name, given = sys.argv[1:]
    os.environ.update(ENVIRONMENT)
    sys.path[0] = str(ROOT)
    # The file may import this module, which is already here under another name.
    sys.modules["tests.tpu_compile"] = sys.modules["__main__"]
    print("\n" + json.dumps(runpy.run_path(file)[name](*json.loads(given))))
