"""BERT of transformers, in torch, the peer of `encoders.py`; imported where it is."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

VERSIONS = f"torch {torch.__version__}"
RATE = 1e-5


def use_all_cores() -> int:
    """As many threads as XLA takes."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch.get_num_threads()


def save_random(folder: Path, layers: int, width: int, vocabulary: int) -> None:
    """Write an encoder of random parameters."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)


class Peer:
    """An encoder and one batch.

    Args:
        folder: Where it is.
        tokens: `[B, T]`.
        where: Which of them are real.
        attention: A name that transformers knows, or "compiled" for the default one
            through `torch.compile`.
    """

    def __init__(
        self, folder: Path, tokens: np.ndarray, where: np.ndarray, attention: str
    ):
        kind = "sdpa" if attention == "compiled" else attention
        self.model: Any = BertModel.from_pretrained(
            folder, add_pooling_layer=False, attn_implementation=kind
        ).eval()
        if attention == "compiled":
            self.model = torch.compile(self.model)
        self.tokens = torch.from_numpy(tokens).long()
        self.where = torch.from_numpy(where).long()

    def hidden(self) -> np.ndarray:
        """Hidden states `[B, T, D]`."""
        with torch.inference_mode():
            return self._hidden().numpy()

    def _hidden(self) -> torch.Tensor:
        return self.model(self.tokens, attention_mask=self.where).last_hidden_state

    def train_with(self, targets: np.ndarray) -> Any:
        """Return a step: squared error of real tokens, backward pass and AdamW."""
        self.model.train()
        # The fused one was the faster of both on CPUs.
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=RATE, weight_decay=1e-4, fused=True
        )
        aim, where = torch.from_numpy(targets), self.where[..., None].float()

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            error = (self._hidden() - aim).square() * where
            loss = error.sum() / where.sum()
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return step
