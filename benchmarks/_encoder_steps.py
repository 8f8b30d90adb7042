"""The train step of BERT-base, compiled by the TPU compiler for eight chips.

tests.tpu_compile.call(encoder_steps, 12, 256) runs it in a fresh process.
"""

import dataclasses

import numpy as np

from tests.tpu_compile import devices
from tests.training.test_tpu import compiled_step
from zlpr_jax.models.bert import BertConfig
from zlpr_jax.optim import adaxw
from zlpr_jax.tasks import masked
from zlpr_jax.training import FitConfig, make_mesh

LENGTH, PLACES = 128, 20
SHAPE = BertConfig(vocabulary=30_522, pooler=False, masked_head=True)
SPECIAL = (0, 100, 101, 102, 103)
STEPS = {"float32": False, "bfloat16": False, "bfloat16, remat": True}


def encoder_steps(layers, rows, names):
    """The masked-language-model step, 4 x 2 chips of a TPU v5e.

    Args:
        layers: Of the encoder.
        rows: Of a batch, each of 128 tokens.
        names: Of `STEPS`: the dtype of the computation, and rematerialisation.

    Returns:
        For each name, what `compiled_step` says.
    """
    mesh = make_mesh(data=4, fsdp=2, devices=devices("v5e:2x4"))
    batch = {
        "tokens": np.zeros((rows, LENGTH), np.int32),
        "words": np.zeros((rows, LENGTH), np.int32),
        "real": np.ones((rows, LENGTH), bool),
        "choose": np.zeros(rows, np.int32),
        "number": np.zeros(rows, np.int32),
        "where": np.ones(rows, bool),
    }
    steps = {}
    for name in names:
        config = dataclasses.replace(SHAPE, layers=layers, remat=STEPS[name])
        task = masked.make(config, places=PLACES, mask_id=SPECIAL[-1], special=SPECIAL)
        fit = FitConfig(batch_size=rows, compute_dtype=name.partition(",")[0])
        steps[name] = compiled_step(task, adaxw(1e-4), mesh, batch, fit)
    return steps
