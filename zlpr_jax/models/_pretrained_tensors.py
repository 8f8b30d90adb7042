"""From the tensors of a pretrained encoder to parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from zlpr_jax._errors import InputError
from zlpr_jax._typing import PyTree
from zlpr_jax.data._tensors import TensorFile
from zlpr_jax.models._convert import (
    BIAS,
    OUTPUT_BIAS,
    OUTPUT_WEIGHT,
    SINUSOIDS,
    Tensor,
    standard_names,
    tensors_of,
)
from zlpr_jax.models.bert import Bert, BertConfig
from zlpr_jax.nn import functionalize
from zlpr_jax.optim._arrays import path_name

# Written beside the parameters by training, or computed from nothing.
_SKIPPED = ("/adam_m", "/adam_v", "global_step", "position_ids", "positions_encoding")
_DTYPES = ("float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Stored:
    """The tensors of a file, by the names of `tensors_of`.

    Attributes:
        file: Where they are.
        names: From those names to the names in the file.
        tensorflow: Whether linear layers are stored as we hold them.
    """

    file: TensorFile
    names: Mapping[str, str]
    tensorflow: bool

    @classmethod
    def of(cls, file: TensorFile, *, tensorflow: bool) -> "Stored":
        """Find out the names.

        Raises:
            InputError: If two tensors are the same, or there are two encoders.
        """
        names: dict[str, str] = {}
        try:
            standard = standard_names(
                name for name in file.tensors if not name.endswith(_SKIPPED)
            )
        except ValueError as error:
            raise InputError(f"{file.path}: {error}") from None
        for stored, name in standard.items():
            if name in names:
                raise InputError(
                    f"{file.path}: {names[name]} and {stored} are the same tensor: "
                    "keep one of them."
                )
            names[name] = stored
        # they are one tensor, and a file may have it under either name
        if BIAS not in names and OUTPUT_BIAS in names:
            names[BIAS] = names.pop(OUTPUT_BIAS)
        return cls(file, names, tensorflow)

    def unexpected(self, config: BertConfig) -> tuple[str, ...]:
        """The names in the file of what no encoder of this kind takes."""
        every = dataclasses.replace(config, pooler=True, masked_head=True)
        known = {tensor.name for tensor in tensors_of(every)}
        known |= {OUTPUT_WEIGHT, OUTPUT_BIAS, SINUSOIDS}
        return tuple(sorted(self.names[name] for name in self.names.keys() - known))

    def read_params(self, config: BertConfig) -> PyTree:
        """Read the parameters of an encoder, in the widest dtype of its tensors.

        Raises:
            InputError: If a tensor is missing, of another shape or dtype than expected
                or damaged, or says that the encoder is of another kind.
        """
        if config.layers > len(self.names):
            raise InputError(
                f"{self.file.path}: num_hidden_layers is {config.layers}, but there "
                f"are {len(self.names)} tensors."
            )
        tensors = tensors_of(config)
        self._check_names(tensors)
        shapes = shapes_of(config)
        leaves = leaves_of(shapes)
        dtype = self._check_shapes(tensors, leaves)
        arrays: dict[str, np.ndarray] = {}
        for tensor in tensors:
            array = self._read(tensor.name)
            array = array.T if self._turned(tensor) else array
            whole = leaves[tensor.path].shape
            if tensor.path not in arrays:
                arrays[tensor.path] = np.empty(whole, dtype)
            at = ... if tensor.layer is None else tensor.layer
            arrays[tensor.path][at] = array.astype(dtype)
        self._check_computed(arrays, config)
        return jax.tree.unflatten(
            jax.tree.structure(shapes),
            [jnp.asarray(arrays.pop(path)) for path in leaves],
        )

    def _check_names(self, tensors: list[Tensor]) -> None:
        missing = [one.name for one in tensors if one.name not in self.names]
        if not missing:
            return
        some = ", ".join(missing[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise InputError(
            f"{self.file.path}: {len(missing)} tensors are missing: {some}{more}; is "
            "this an encoder of the BERT family, of the shape that the configuration "
            "says?"
        )

    def _check_shapes(
        self, tensors: list[Tensor], leaves: Mapping[str, Any]
    ) -> np.dtype:
        dtypes = set()
        for tensor in tensors:
            name = self.names[tensor.name]
            found = self.file.tensors[name]
            shape = leaves[tensor.path].shape
            shape = shape if tensor.layer is None else shape[1:]
            shape = shape[::-1] if self._turned(tensor) else shape
            if tuple(found.shape) != shape:
                raise InputError(
                    f"{self.file.path}: {name} has the shape {list(found.shape)}; the "
                    f"configuration says {list(shape)}."
                )
            if found.dtype.name not in _DTYPES:
                raise InputError(
                    f"{self.file.path}: {name} is {found.dtype}; expected "
                    f"{', '.join(_DTYPES)}."
                )
            dtypes.add(found.dtype)
        # float16 and bfloat16 have none but this in common
        return dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)

    def _check_computed(
        self, arrays: Mapping[str, np.ndarray], config: BertConfig
    ) -> None:
        """Refuse positions that were trained, and an output of its own."""
        expected: dict[str, tuple[np.ndarray, str]] = {}
        if config.masked_head:
            tied = "of the embedding, which the output has to share"
            expected[OUTPUT_WEIGHT] = arrays["tokens"], f"that {tied}"
            expected[OUTPUT_BIAS] = arrays["masked_head/bias"], f"the same as {BIAS}"
        if config.positions == "rotary":
            expected[SINUSOIDS] = sinusoids(config), "made of sinusoids"
        for name, (array, what) in expected.items():
            if name in self.names and not self._holds(name, array):
                raise InputError(
                    f"{self.file.path}: {self.names[name]} is not {what}: such an "
                    "encoder is not supported."
                )

    def _holds(self, name: str, array: np.ndarray) -> bool:
        found = self.file.tensors[self.names[name]]
        if tuple(found.shape) != array.shape or found.dtype.name not in _DTYPES:
            return False
        # sinusoids are computed in other ways, and rounded
        close = max(1e-4, float(jnp.finfo(found.dtype).eps))
        one, other = (x.astype(np.float32) for x in (self._read(name), array))
        return np.allclose(one, other, rtol=close, atol=close, equal_nan=True)

    def _read(self, name: str) -> np.ndarray:
        return self.file.read(self.names[name])

    def _turned(self, tensor: Tensor) -> bool:
        return tensor.transposed and not self.tensorflow


def shapes_of(config: BertConfig) -> PyTree:
    """The parameters of an encoder, as shapes."""
    return jax.eval_shape(lambda: functionalize(Bert(config, rngs=nnx.Rngs(0))).params)


def leaves_of(params: PyTree) -> dict[str, Any]:
    """The arrays of a tree by their path."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): leaf for path, leaf in leaves}


def sinusoids(config: BertConfig) -> npt.NDArray[np.float32]:
    """The tensor that RoFormer holds its angles in: sines, then cosines."""
    width = config.width // config.heads
    rates = 10000 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(config.max_length)[:, None] * rates[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
