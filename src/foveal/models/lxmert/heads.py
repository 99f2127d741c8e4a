"""What reads the pooled sentence of LXMERT: answers to a question about an image, or whether a sentence holds of two images.

Official   airsplay/lxmert ``src/tasks/{vqa,gqa,nlvr2}_model.py``, which yangxuntu/lxmertcatt keeps
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..._errors import InputError, missing_extra

__all__ = ["LxmertReader", "PairHead"]


class PairHead(nn.Module):
    """Of NLVR2: the pooled sentences of two images side by side, and as many outputs as classes. Names are those of the official file."""

    def __init__(self, dim: int, num_classes: int = 2, std: float = 0.02) -> None:
        super().__init__()
        self.logit_fc = nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.GELU(), nn.LayerNorm(2 * dim, eps=1e-12), nn.Linear(2 * dim, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """``(B, 2, C) -> (B, classes)``."""
        out: Tensor = self.logit_fc(pooled.flatten(1))
        return out


class LxmertReader(nn.Module):
    """An LXMERT, with CATT or without, and a head on its pooled sentence.

    Args:
        lxmert: transformers' ``LxmertModel``.
        outputs: answers, or classes.
        images: 1 of a question, 2 of a sentence about a pair.

    Raises:
        ValueError: more or less images; transformers is not installed.
    """

    def __init__(self, lxmert: Any, outputs: int, images: int = 1) -> None:
        super().__init__()
        if images not in (1, 2):
            raise InputError(f"a sentence is about 1 image or about 2, got images={images}")
        self.lxmert, self.images = lxmert, images
        self.answer_head: nn.Module = (
            _answer_head(lxmert, outputs) if images == 1 else PairHead(lxmert.config.hidden_size, outputs, lxmert.config.initializer_range)
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits ``(B, outputs)``.

        Args:
            inputs: ``input_ids`` and ``attention_mask`` ``(B, N)``; ``visual_feats`` ``(B, M, F)``, ``visual_pos`` ``(B, M, 4)`` and
                ``visual_attention_mask`` ``(B, M)``, where a sentence is about two images ``(B, 2, M, …)``.

        Raises:
            ValueError: features and boxes that are not as many, or of another number of images.
        """
        names = ("input_ids", "attention_mask", "visual_feats", "visual_pos", "visual_attention_mask")
        given = {name: inputs[name] for name in names if name in inputs}
        if self.images > 1:
            features = given["visual_feats"]
            if features.ndim != 4 or features.shape[1] != self.images:
                raise InputError(f"expected features (B, {self.images}, M, F) of as many images, got {tuple(features.shape)}")
            # the same words for both images, which lie next to each other
            own = {name: value.repeat_interleave(self.images, 0) for name, value in given.items() if not name.startswith("visual")}
            given = own | {name: value.flatten(0, 1) for name, value in given.items() if name.startswith("visual")}
        pooled = self.lxmert(**given).pooled_output
        out: Tensor = self.answer_head(pooled if self.images == 1 else pooled.unflatten(0, (-1, self.images)))
        return out


def _answer_head(lxmert: Any, answers: int) -> nn.Module:
    try:
        from transformers.models.lxmert.modeling_lxmert import LxmertVisualAnswerHead
    except ImportError as error:
        raise missing_extra("transformers", "hf", "LXMERT") from error
    head = LxmertVisualAnswerHead(lxmert.config, answers)
    # as transformers draws all of LXMERT
    head.apply(lxmert._init_weights)
    out: nn.Module = head
    return out
