"""Write reference.json: trajectories of two other AdaFactor implementations.

Not run by the tests. Needs torch 2.13.0 (CPU) and transformers 5.23.0 in an environment
of its own: `python tests/optim/golden/make_golden.py`.

The problem is the same for everyone and needs no random generator: parameters and
gradients are sines of the entry's index, in float64.
"""

import json
import math
from pathlib import Path

import torch
import transformers
from transformers.optimization import Adafactor as HuggingFaceAdafactor

STEPS = 20
SHAPES = {"kernel": (12, 8), "bias": (8,)}


def parameter(shape):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.5 * torch.sin(1.0 + index)).reshape(shape)


def gradient(shape, step):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    size = 10.0 ** ((step * 7) % 5 - 2)
    change = 1.0 + 0.9 * torch.sin(0.7 * step + index)
    return (size * change * torch.sin(1.3 * index + 0.2)).reshape(shape)


def trajectory(make):
    parameters = {n: torch.nn.Parameter(parameter(s)) for n, s in SHAPES.items()}
    optimizer = make(list(parameters.values()))
    path = {name: [] for name in SHAPES}
    for step in range(1, STEPS + 1):
        for name, p in parameters.items():
            p.grad = gradient(SHAPES[name], step)
        optimizer.step()
        for name, p in parameters.items():
            path[name].append(p.detach().flatten().tolist())
    return {name: [path[name][i] for i in (0, 4, STEPS - 1)] for name in path}


def main():
    reference = {
        "made_with": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "steps": [1, 5, STEPS],
        # torch clamps the estimate at eps1 where the paper adds it to the square.
        "torch": trajectory(lambda p: torch.optim.Adafactor(p, eps=(1e-15, 1e-3))),
        "hugging_face": trajectory(HuggingFaceAdafactor),
        "hugging_face_momentum": trajectory(
            lambda p: HuggingFaceAdafactor(p, lr=0.01, relative_step=False, beta1=0.9)
        ),
    }
    target = Path(__file__).with_name("reference.json")
    target.write_text(json.dumps(reference, indent=1) + "\n")


if __name__ == "__main__":
    main()
