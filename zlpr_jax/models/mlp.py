"""A multi-layer perceptron for dense or sparse feature vectors."""

import dataclasses
import itertools

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from zlpr_jax.nn import SparseFeatures, sparse_linear


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """The shape of an `MLP`.

    Attributes:
        features: Width of the input.
        labels: Width of the output.
        hidden: Widths of the hidden layers; empty for a linear model.
        dropout: Share of hidden units dropped in training, in [0, 1).
        input_dropout: Share of input features dropped in training, in [0, 1).
    """

    features: int
    labels: int
    hidden: tuple[int, ...] = (256,)
    dropout: float = 0.0
    input_dropout: float = 0.0

    def __post_init__(self):
        for name in ("features", "labels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"every width in hidden must be >= 1, got {self.hidden}.")
        for name in ("dropout", "input_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be in [0, 1), got {getattr(self, name)}."
                )


class MLP(nnx.Module):
    """Linear layers with ReLU and dropout between them; logits out.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> model = MLP(MLPConfig(features=8, labels=3), rngs=nnx.Rngs(0))
        >>> model(jnp.ones((2, 8))).shape
        (2, 3)
    """

    def __init__(self, config: MLPConfig, *, rngs: nnx.Rngs):
        widths = (config.features, *config.hidden, config.labels)
        self.input = nnx.Linear(widths[0], widths[1], rngs=rngs)
        self.layers = nnx.List(
            nnx.Linear(width, following, rngs=rngs)
            for width, following in itertools.pairwise(widths[1:])
        )
        self.dropout = nnx.Dropout(config.dropout)
        self.input_dropout = nnx.Dropout(config.input_dropout)

    def __call__(
        self,
        features: Float[Array, "B features"] | SparseFeatures,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B labels"]:
        """Score every label of every row.

        Args:
            features: A dense batch `[B, features]` or `SparseFeatures`.
            key: Randomness for dropout; `None` switches dropout off.

        Returns:
            Logits `[B, labels]`.
        """
        if not self.layers:
            return self._first(
                features, None if key is None else jax.random.split(key, 1)[0]
            )
        return self.layers[-1](self.encode(features, key=key))

    def encode(
        self,
        features: Float[Array, "B features"] | SparseFeatures,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B D"]:
        """Give what the output layer takes: the last hidden layer, after dropout.

        The output layer is the last of `layers`; a loss that does without the logits
        takes its kernel and bias from the parameters.

        Args:
            features: As in `__call__`.
            key: As in `__call__`.

        Returns:
            Hidden activations `[B, D]`.

        Raises:
            ValueError: If there is no hidden layer.
        """
        if not self.layers:
            raise ValueError(
                "a linear model has nothing to encode: give hidden a width."
            )
        keys = [None] * (1 + len(self.layers))
        if key is not None:
            keys = list(jax.random.split(key, len(keys)))
        x = self._first(features, keys[0])
        for layer, layer_key in zip(list(self.layers)[:-1], keys[1:-1], strict=True):
            x = layer(_drop(self.dropout, jax.nn.relu(x), layer_key))
        return _drop(self.dropout, jax.nn.relu(x), keys[-1])

    def _first(
        self,
        features: Float[Array, "B features"] | SparseFeatures,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "B width"]:
        if isinstance(features, SparseFeatures):
            values = _drop(self.input_dropout, features.values, key)
            return sparse_linear(self.input, features._replace(values=values))
        return self.input(_drop(self.input_dropout, features, key))


def _drop(
    dropout: nnx.Dropout, x: Float[Array, "B width"], key: Key[Array, ""] | None
) -> Float[Array, "B width"]:
    return x if key is None else dropout(x, deterministic=False, rngs=key)
