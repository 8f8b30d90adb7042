"""Write the TensorFlow checkpoints that tests read, with what they hold as safetensors.

    pip install tensorflow-cpu safetensors
    python tests/data/golden/write_tensorflow.py

bert_tensorflow is an encoder as google-research/bert saves one, by variable names, in
two data files, with its optimizer's state for two variables; tensorflow.safetensors has
the same arrays. dtypes_tensorflow and dtypes.safetensors hold the other dtypes, a
scalar, an empty tensor and a string. objects_tensorflow is by tf.train.Checkpoint, and
sliced_tensorflow has a partitioned variable. In damaged_data and damaged_index, a bit
of dtypes_tensorflow is another one.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

HERE = Path(__file__).parent
SHAPE: dict[str, Any] = {
    **{"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "intermediate_size": 24, "initializer_range": 0.5},
    **{"max_position_embeddings": 12, "type_vocab_size": 2, "hidden_act": "gelu"},
    **{"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
}


def encoder_shapes() -> dict[str, tuple[int, ...]]:
    """The variables of google-research/bert's model with both of its heads."""
    names = ("vocab_size", "hidden_size", "intermediate_size")
    vocabulary, width, hidden = (SHAPE[name] for name in names)
    shapes: dict[str, tuple[int, ...]] = {}

    def dense(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}/kernel"] = (inputs, outputs)
        shapes[f"{name}/bias"] = (outputs,)

    def norm(name: str) -> None:
        shapes[f"{name}/LayerNorm/gamma"] = (width,)
        shapes[f"{name}/LayerNorm/beta"] = (width,)

    shapes["bert/embeddings/word_embeddings"] = (vocabulary, width)
    shapes["bert/embeddings/token_type_embeddings"] = (2, width)
    shapes["bert/embeddings/position_embeddings"] = (12, width)
    norm("bert/embeddings")
    for layer in range(2):
        block = f"bert/encoder/layer_{layer}"
        for name in ("query", "key", "value"):
            dense(f"{block}/attention/self/{name}", width, width)
        dense(f"{block}/attention/output/dense", width, width)
        norm(f"{block}/attention/output")
        dense(f"{block}/intermediate/dense", width, hidden)
        dense(f"{block}/output/dense", hidden, width)
        norm(f"{block}/output")
    dense("bert/pooler/dense", width, width)
    dense("cls/predictions/transform/dense", width, width)
    norm("cls/predictions/transform")
    shapes["cls/predictions/output_bias"] = (vocabulary,)
    shapes["cls/seq_relationship/output_weights"] = (2, width)
    shapes["cls/seq_relationship/output_bias"] = (2,)
    return shapes


def main() -> None:
    """Write all folders."""
    # Here, since pytest imports this file to look for examples in it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import safetensors.numpy
    import tensorflow as tf

    def save(folder: str, name: str, *parts: dict[str, np.ndarray]) -> Path:
        """A checkpoint with one data file for each part."""
        path = HERE / folder
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        prefixes = [str(path / f"part{number}") for number in range(len(parts))]
        for prefix, arrays in zip(prefixes, parts, strict=True):
            tf.raw_ops.SaveV2(
                prefix=prefix,
                tensor_names=list(arrays),
                shape_and_slices=[""] * len(arrays),
                tensors=[tf.constant(array) for array in arrays.values()],
            )
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=prefixes, destination_prefix=str(path / name)
        )
        return path

    rng = np.random.default_rng(0)
    encoder = {
        name: rng.normal(0, 0.5, shape).astype(np.float32)
        for name, shape in encoder_shapes().items()
    }
    for name in ("bert/embeddings/LayerNorm/gamma", "cls/predictions/output_bias"):
        for slot in ("adam_m", "adam_v"):
            encoder[f"{name}/{slot}"] = np.square(encoder[name]) * np.float32(1e-3)
    encoder["global_step"] = np.array(1234, np.int64)
    parts = [dict(list(encoder.items())[part::2]) for part in range(2)]
    folder = save("bert_tensorflow", "bert_model.ckpt", *parts)
    text = json.dumps(SHAPE, indent=2, sort_keys=True) + "\n"
    (folder / "bert_config.json").write_text(text, encoding="utf-8")
    (HERE / "tensorflow.safetensors").write_bytes(safetensors.numpy.save(encoder))

    dtypes = {
        "empty": np.zeros((3, 0, 2), np.float32),
        "scalar": np.array(0.25, np.float32),
        "flags": np.array([True, False, True]),
    }
    for dtype in (ml_dtypes.bfloat16, np.float16, np.float64, np.int32, np.int64):
        name = np.dtype(dtype).name
        dtypes[name] = (rng.normal(0, 100, (2, 3))).astype(dtype)
    (HERE / "dtypes.safetensors").write_bytes(safetensors.numpy.save(dtypes))
    folder = save(
        "dtypes_tensorflow", "model", {**dtypes, "text": np.array(["a", "bc"])}
    )
    scalar = np.float32(0.25).tobytes()
    for kind, file, within in (
        ("data", "model.data-00000-of-00001", scalar),
        ("index", "model.index", b"float16"),  # a name
    ):
        damaged = HERE / f"damaged_{kind}"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(folder, damaged)
        content = bytearray((damaged / file).read_bytes())
        content[content.index(within) + 2] ^= 1
        (damaged / file).write_bytes(content)

    objects = HERE / "objects_tensorflow"
    shutil.rmtree(objects, ignore_errors=True)
    weight = tf.Variable(np.arange(6, dtype=np.float32).reshape(2, 3))
    tf.train.Checkpoint(weight=weight).write(str(objects / "model"))

    sliced = HERE / "sliced_tensorflow"
    shutil.rmtree(sliced, ignore_errors=True)
    sliced.mkdir()
    tf.raw_ops.SaveV2(
        prefix=str(sliced / "model"),
        tensor_names=["table", "table", "whole"],
        shape_and_slices=["4 3 0,2:-", "4 3 2,2:-", ""],
        tensors=[tf.zeros((2, 3)), tf.ones((2, 3)), tf.ones(2)],
    )


if __name__ == "__main__":
    main()
