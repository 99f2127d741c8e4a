"""Small LXMERTs of transformers, and what they are asked."""

import torch
from torch import Tensor

SIZES = {"vocab_size": 30, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "visual_feat_dim": 10, "max_position_embeddings": 16}
LAYERS = {"l_layers": 3, "r_layers": 2, "x_layers": 3}


def config(**changes: object) -> object:
    from transformers import LxmertConfig

    return LxmertConfig(**SIZES | LAYERS | {"num_qa_labels": 7} | changes)


def host(kind: str = "LxmertModel", seed: int = 0, **changes: object) -> torch.nn.Module:
    import transformers

    torch.manual_seed(seed)
    model = getattr(transformers, kind)(config(**changes)).double().eval()
    # transformers starts near zero, where LXMERT's layers hardly tell inputs apart
    for value in model.parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=0.3)
    return model


def asked(batch: int = 2, words: int = 5, regions: int = 4, seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    mask, seen = torch.ones(batch, words, dtype=torch.long), torch.ones(batch, regions, dtype=torch.long)
    mask[0, -2:], seen[-1, -1:] = 0, 0
    return {
        "input_ids": torch.randint(1, 30, (batch, words)),
        "attention_mask": mask,
        # the row of segment 0 is one of padding, in LXMERT and here, and never learns
        "token_type_ids": torch.ones(batch, words, dtype=torch.long),
        "visual_feats": torch.randn(batch, regions, 10, dtype=torch.float64),
        "visual_pos": torch.rand(batch, regions, 4, dtype=torch.float64),
        "visual_attention_mask": seen,
    }
