"""Attentions over words, which are left alone."""

from typing import Any

from torch import nn

from ..._errors import InputError
from .._layouts import above

__all__ = ["refuse_text"]

_OF_IMAGES = ("patch_size", "image_size", "vision_config", "num_channels", "cross_attention_frequency", "visual_feat_dim", "backbone_config")
"""What a configuration says where it is not of words alone; the last three of transformers that read images by learned queries
(BLIP-2, arXiv 2301.12597), features of regions (LXMERT, arXiv 1908.07490), and what a backbone makes of frames (TVP, arXiv 2303.04995)."""


def refuse_text(model: nn.Module, name: str) -> None:
    """By the nearest configuration above.

    Raises:
        ValueError: it is one of text alone.
    """
    for owner in (model.get_submodule(name), *above(model, name)):
        config = getattr(owner, "config", None)
        if config is None or isinstance(config, nn.Module):
            continue
        if hasattr(config, "vocab_size") and not any(hasattr(config, key) for key in _OF_IMAGES) and _has_words(model, name, config):
            raise InputError(f"{name} reads text, which is left alone; name a place in images, for example with where='vision_model.*'")
        return


def _has_words(model: nn.Module, name: str, config: Any) -> bool:
    """Whether there is a table of its words, with or without spare rows, where its configuration rules: language models also read images alone, without one."""
    owners = [owner for owner in above(model, name) if getattr(owner, "config", None) is config]
    parts = (owners[-1] if owners else model).modules()
    return any(isinstance(part, nn.Embedding) and part.num_embeddings >= config.vocab_size for part in parts)
