"""Write the encoders that tests compare with, and what transformers 5 gives for them.

    pip install torch transformers
    python tests/models/golden/write_encoders.py

The weights are large (initializer_range 0.5): with the usual small ones the two kinds
of GELU could not be told apart.
"""

import shutil
from pathlib import Path

import numpy as np
import safetensors.numpy

HERE = Path(__file__).parent
SHAPE = {
    **{"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "intermediate_size": 24, "initializer_range": 0.5},
    **{"max_position_embeddings": 12, "type_vocab_size": 2},
}
MODELS = {
    "bert": ("Bert", {}),
    "bert_tanh": ("Bert", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
    "roformer": ("RoFormer", {}),
}


def main() -> None:
    """Write a folder for each model, and outputs.safetensors."""
    # here: pytest imports this file, and its environment has neither
    import torch
    import transformers

    rng = np.random.default_rng(0)
    arrays = {
        "tokens": rng.integers(0, 20, (3, 9)),
        "token_types": rng.integers(0, 2, (3, 9)),
        "where": np.arange(9)[None] < np.array([9, 5, 1])[:, None],
    }
    inputs = {
        "input_ids": torch.tensor(arrays["tokens"]),
        "token_type_ids": torch.tensor(arrays["token_types"]),
        "attention_mask": torch.tensor(arrays["where"]).long(),
    }
    for name, (kind, changes) in MODELS.items():
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **changes})
        model = getattr(transformers, f"{kind}ForMaskedLM")(config).eval()
        for parameter in model.parameters():  # biases and norms begin as 0 and 1
            if parameter.ndim == 1:
                parameter.data += torch.randn_like(parameter) * 0.3
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        with torch.no_grad():
            outputs = model(**inputs, output_hidden_states=True)
        arrays[f"{name}/hidden"] = outputs.hidden_states[-1].numpy()
        arrays[f"{name}/logits"] = outputs.logits.numpy()
    torch.manual_seed(0)
    bare = transformers.BertModel(transformers.BertConfig(**SHAPE)).eval()
    shutil.rmtree(HERE / "bert_bare", ignore_errors=True)
    bare.save_pretrained(HERE / "bert_bare")
    with torch.no_grad():
        outputs = bare(**inputs)
    arrays["bert_bare/hidden"] = outputs.last_hidden_state.numpy()
    arrays["bert_bare/pooled"] = outputs.pooler_output.numpy()
    (HERE / "outputs.safetensors").write_bytes(safetensors.numpy.save(arrays))


if __name__ == "__main__":
    main()
