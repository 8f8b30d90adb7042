"""One program on several hosts: who is who, and what they agree on."""

import functools
import importlib.util
import os
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from zlpr_jax._errors import InputError

ADDRESS, COUNT, INDEX = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
)
# Seconds without a sign of life after which a process counts as dead. The others then
# end with an error, and a restart goes on from the last checkpoint.
HEARTBEAT = 30


def initialize_processes() -> None:
    """Join the other processes of this program, if it was started as several.

    Call it before anything that asks jax for a device. It is several processes if
    `JAX_COORDINATOR_ADDRESS` (host:port of process 0), `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID` say so, under Slurm or Open MPI with more than one task, and on TPU
    pods; anywhere else, nothing happens. If one of them dies, the others end with an
    error within a minute.

    Raises:
        InputError: If the environment variables contradict each other or some are
            missing.

    Examples:
        >>> initialize_processes()
        >>> jax.process_count(), is_main()
        (1, True)
    """
    if jax.distributed.is_initialized():
        return
    given = explicit_processes(os.environ)
    if given is None and not is_cluster(os.environ):
        return
    address, count, index = given or (None, None, None)
    if count == 1:
        return
    # `fit` handles SIGTERM itself; jax's handler would swallow it outside of `fit`
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address, count, index, heartbeat_timeout_seconds=HEARTBEAT
        )
    except (ValueError, OSError) as error:
        # a TPU of one host, which has no metadata server or one that knows no others
        if _may_be_pod(os.environ):
            return
        raise InputError(
            "this was started as several processes, but jax does not find the others "
            f"({error}): set {ADDRESS} (host:port of process 0), {COUNT} and {INDEX}."
        ) from error


def explicit_processes(
    environ: Mapping[str, str],
) -> tuple[str | None, int, int] | None:
    """Read the address, number and index that the environment names; `None`: none.

    Raises:
        InputError: If they contradict each other or some are missing.
    """
    names = (ADDRESS, COUNT, INDEX)
    given = {name: environ[name] for name in names if environ.get(name)}
    if not given or (given.keys() == {ADDRESS} and is_cluster(environ)):
        return None
    if given.get(COUNT) == "1" and given.get(INDEX, "0") == "0":
        return None, 1, 0
    if missing := [name for name in names if name not in given]:
        raise InputError(
            f"{' and '.join(given)} is set, but not {' and '.join(missing)}: several "
            "processes need all three, one process none."
        )
    for name in (COUNT, INDEX):
        if not given[name].isdecimal():
            raise InputError(f"{name} must be an integer >= 0, got {given[name]!r}.")
    count, index = int(given[COUNT]), int(given[INDEX])
    if index >= count:
        raise InputError(
            f"{INDEX} must be below {COUNT}, which is {count}; got {index}."
        )
    host, _, port = given[ADDRESS].rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(
            f"{ADDRESS} must be host:port of process 0, such as 10.0.0.1:8476; "
            f"got {given[ADDRESS]!r}."
        )
    return given[ADDRESS], count, index


def is_cluster(environ: Mapping[str, str]) -> bool:
    """Whether jax should look for other processes by itself."""
    # A shell or script inside of a Slurm job is one step with one task.
    tasks = environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS")
    if "SLURM_STEP_NODELIST" in environ and _number(tasks) > 1:
        return True
    if _number(environ.get("OMPI_COMM_WORLD_SIZE")) > 1:
        return True
    if environ.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu":
        return False
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    several = "," in (hosts or "") or _number(environ.get("MEGASCALE_NUM_SLICES")) > 1
    return several or _may_be_pod(environ)


def is_main() -> bool:
    """Whether this is process 0, which writes what is written once."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; all have to ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


@functools.lru_cache(maxsize=4)
def from_each_process(mesh: Mesh, flag: bool) -> jax.Array:
    """Give the flags of all processes as one array, an entry for each device.

    Nothing is exchanged: each process knows its own entries. What a step makes of them
    is the same everywhere.
    """
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.make_array_from_callback(
        (mesh.size,), sharding, lambda index: np.full(1, flag)
    )


def same_everywhere(text: str) -> str:
    """Return the text that process 0 has; all have to ask.

    Examples:
        >>> same_everywhere("runs/yeast-2")
        'runs/yeast-2'
    """
    if jax.process_count() == 1:
        return text
    encoded = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(encoded))))
    own = encoded if is_main() else np.zeros(length, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(own)).tobytes().decode()


def _may_be_pod(environ: Mapping[str, str]) -> bool:
    """Whether only a Google Cloud machine itself can say if it is one of several.

    jax sets TPU_SKIP_MDS_QUERY where there is no TPU. A Colab machine is never part of
    a pod, and has no metadata that would say so.
    """
    return (
        importlib.util.find_spec("libtpu") is not None
        and not any(
            name in environ
            for name in (
                "TPU_SKIP_MDS_QUERY",
                "TPU_PROCESS_ADDRESSES",
                "TPU_WORKER_HOSTNAMES",
                "COLAB_RELEASE_TAG",
                "KUBERNETES_SERVICE_HOST",
            )
        )
        and environ.get("JAX_PLATFORMS", "tpu").split(",")[0] == "tpu"
    )


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
