"""Sets that other Python packages carry: found by path, nothing is downloaded."""

import gzip
import hashlib
import importlib.util
from pathlib import Path

from zlpr_jax._errors import InputError

INSTALL = 'pip install "zlpr-jax[train]"'


def read_packaged(
    package: str, place: str, *, what: str, sha256: str, releases: str
) -> tuple[Path, str]:
    """The path and the text of a .gz file of an installed package.

    By path, since importing such a package would load much else.

    Args:
        package: the package.
        place: the file in it, "/"-joined.
        what: the set that the file holds, for messages.
        sha256: digest of the file, packed.
        releases: the releases of the package that carry it, for messages.

    Raises:
        InputError: the package is not installed, or its file is not the expected one.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the {what} comes with the package {package}, which is not installed: "
            f"{INSTALL}"
        )
    path = Path(spec.submodule_search_locations[0], *place.split("/"))
    if not path.is_file():
        raise InputError(
            f"{path}: not there; this release of {package} carries no {what}, releases "
            f"{releases} do: {INSTALL}"
        )
    packed = path.read_bytes()
    digest = hashlib.sha256(packed).hexdigest()
    if digest != sha256:
        raise InputError(
            f"{path}: SHA-256 is {digest}, expected {sha256}: the file was changed or "
            f"is of another release of {package}, not {releases}: {INSTALL}"
        )
    return path, gzip.decompress(packed).decode("ascii")
