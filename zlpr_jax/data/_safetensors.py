"""Safetensors as Hugging Face writes them: model.safetensors, or its shards.

Read here rather than by the library of that name, which has no bfloat16 for NumPy, and
most of whose errors name no tensor; the tests ask it about the same files.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from zlpr_jax._errors import InputError
from zlpr_jax.data._open import shorten
from zlpr_jax.data._tensors import (
    TensorFile,
    TensorSpec,
    file_length,
    locate,
    quoted,
    read_range,
)

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
# Of a header or an index; the library has the same bound. They are parsed in memory.
_MAX_JSON = 100_000_000
_MAX_BYTES = 2**63
_DTYPES: dict[str, Any] = {
    **{"BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16},
    **{"I16": np.int16, "U32": np.uint32, "I32": np.int32, "U64": np.uint64},
    **{"I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64},
    **{"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn},
    **{"F8_E5M2": ml_dtypes.float8_e5m2, "C64": np.complex64},
}
_DTYPES = {name: np.dtype(dtype) for name, dtype in _DTYPES.items()}


def open_folder_safetensors(folder: Path) -> TensorFile:
    """Open the tensors of a Hugging Face folder.

    Args:
        folder: holds model.safetensors, or model.safetensors.index.json and the files
            that it names.

    Returns:
        All tensors.

    Raises:
        InputError: neither file is there, a file is missing or damaged, or the index
            and its files do not list the same tensors.
    """
    if (folder / _WHOLE).is_file():
        return open_safetensors(folder / _WHOLE)
    if (folder / _INDEX).is_file():
        return _open_shards(folder / _INDEX)
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error}): check the path"
        ) from None
    what = f"{folder}: has no {_WHOLE} and no {_INDEX}"
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    if pickles:
        first = "pytorch_model.bin" if "pytorch_model.bin" in pickles else pickles[0]
        raise InputError(
            f"{what}, but {shorten(pickles)}: pickles, which can run any code, are not "
            "read; if you trust it, convert it with PyTorch: safetensors.torch."
            "save_file({k: v.clone().contiguous() for k, v in "
            f"torch.load({first!r}, weights_only=True).items()}}, {_WHOLE!r})"
        )
    raise InputError(
        f"{what}; it has {shorten(names) or 'no files'}: name the folder of an encoder "
        f"that was saved as safetensors, or rename its one file to {_WHOLE}"
    )


def open_safetensors(path: Path) -> TensorFile:
    """Open one safetensors file.

    Args:
        path: the file: the length of a header in 8 bytes, the header in JSON, the
            numbers.

    Returns:
        Its tensors.

    Raises:
        InputError: it is missing, or its header is damaged, too long, or not true of
            the file.
    """
    length = file_length(path, f"a safetensors file such as {_WHOLE}: copy it there")
    start = min(8, length)
    promised = int.from_bytes(read_range(path, 0, start).tobytes(), "little")
    if start < 8 or promised > length - 8:
        found = f"promises a header of {promised} bytes" if start == 8 else "is cut off"
        raise InputError(
            f"{path}: {found}; the file has {length} bytes: is it no safetensors file, "
            "or was it cut off? copy it again"
        )
    header = _read_json(path, 8, promised)
    start += promised
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(
        not isinstance(value, str) for value in metadata.values()
    ):
        raise InputError(f"{path}: __metadata__ is {quoted(metadata)}; expected texts")
    tensors = {
        name: _spec(path, name, info, start, length) for name, info in header.items()
    }
    _check_covered(path, tensors, start, length)
    return TensorFile(path=path, tensors=tensors)


def _spec(path: Path, name: str, info: Any, start: int, length: int) -> TensorSpec:
    what = f"{path}: tensor {quoted(name)}"
    if not isinstance(info, dict) or set(info) != {"dtype", "shape", "data_offsets"}:
        raise InputError(
            f"{what} is {quoted(info)}; expected dtype, shape and data_offsets: "
            "damaged, copy it again"
        )
    dtype = _DTYPES.get(info["dtype"]) if isinstance(info["dtype"], str) else None
    if dtype is None:
        raise InputError(
            f"{what} has the dtype {quoted(info['dtype'])}; expected one of "
            f"{', '.join(_DTYPES)}: convert it"
        )
    shape, offsets = info["shape"], info["data_offsets"]
    if not _whole_numbers(shape):
        raise InputError(
            f"{what} has the shape {quoted(shape)}; expected whole numbers from 0 to "
            "2^63: damaged, copy it again"
        )
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(
            f"{what} has the data_offsets {quoted(offsets)}; expected its first byte "
            "and the one behind it: damaged, copy it again"
        )
    return locate(
        path,
        name,
        shape=tuple(shape),
        dtype=dtype,
        offset=start + offsets[0],
        size=offsets[1] - offsets[0],
        length=length,
    )


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        # Not isinstance: true and false are integers to Python.
        type(value) is int and 0 <= value < _MAX_BYTES
        for value in values
    )


def _check_covered(
    path: Path, tensors: dict[str, TensorSpec], start: int, length: int
) -> None:
    """Each byte belongs to one tensor, as the format says."""
    at, before = start, "the header"
    for name, spec in sorted(
        tensors.items(), key=lambda item: (item[1].offset, item[1].size)
    ):
        if spec.offset != at:
            how = "overlaps" if spec.offset < at else "leaves a gap behind"
            raise InputError(
                f"{path}: tensor {quoted(name)} at byte {spec.offset} {how} {before}, "
                f"which ends at byte {at}: damaged, copy it again"
            )
        at, before = spec.offset + spec.size, f"tensor {quoted(name)}"
    if at != length:
        raise InputError(
            f"{path}: {before} ends at byte {at}; the file has {length} bytes: "
            "damaged, or more than one file, copy it again"
        )


def _open_shards(index: Path) -> TensorFile:
    length = file_length(index, "the index of a model's files: copy it there")
    stored = _read_json(index, 0, length)
    listed = stored.get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise InputError(
            f"{index}: weight_map is {quoted(listed)}; expected the file of each "
            "tensor: copy it again"
        )
    for name, shard in listed.items():
        # The names come with the model: none may lead out of its folder.
        if not isinstance(shard, str) or not _is_plain(shard):
            raise InputError(
                f"{index}: tensor {quoted(name)} is in {quoted(shard)}; expected the "
                "name of a file beside the index"
            )
    tensors: dict[str, TensorSpec] = {}
    for shard in sorted(set(listed.values())):
        path = index.parent / shard
        file_length(path, f"a file that {index.name} lists: copy all of them")
        found = open_safetensors(path).tensors
        wanted = {name for name, place in listed.items() if place == shard}
        _check_listed(index, f"missing in {quoted(shard)}", wanted - set(found))
        _check_listed(index, f"only in {quoted(shard)}", set(found) - wanted)
        tensors |= found
    # In the order of the index, which is that of the model.
    return TensorFile(path=index, tensors={name: tensors[name] for name in listed})


def _check_listed(index: Path, where: str, names: Iterable[str]) -> None:
    odd = sorted(names)
    if odd:
        raise InputError(
            f"{index}: tensors that are {where}: {shorten(map(quoted, odd))}; expected "
            "an index and files of one model: copy all of them again"
        )


def _is_plain(name: str) -> bool:
    r"""Whether a name is that of a file in a folder, on any system.

    Examples:
        >>> _is_plain("model-1.safetensors"), _is_plain("../x"), _is_plain("C:\\x")
        (True, False, False)
    """
    return name.isprintable() and not set(name) & set("/\\:") and name.strip(".") != ""


def _read_json(path: Path, offset: int, size: int) -> dict[str, Any]:
    if size > _MAX_JSON:
        raise InputError(
            f"{path}: its list of tensors has {size} bytes; expected at most "
            f"{_MAX_JSON}: is it another file?"
        )
    content = read_range(path, offset, size).tobytes()
    try:
        found = json.loads(content.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: its list of tensors is no JSON ({quoted(str(error))[1:-1]}): is "
            "it another file, or damaged? copy it again"
        ) from None
    if not isinstance(found, dict):
        raise InputError(
            f"{path}: its list of tensors is {quoted(found)}; expected a JSON object: "
            "is it another file?"
        )
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{quoted(name)} is there twice")
        found[name] = value
    return found
