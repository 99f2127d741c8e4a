"""LXMERT with CATT and the heads of its pre-training, as a recipe has it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..._errors import InputError, missing_extra
from .._config import register_model
from .config import Lxmert

__all__ = ["LxmertPretrainer", "LxmertPretraining"]


class _Tied(nn.Module):
    """Scores of words by their own embeddings. A weight that stands in a model under two names cannot be saved, so it is not a part of this."""

    def __init__(self, words: nn.Embedding) -> None:
        super().__init__()
        # in a list, which is no module; copies of the whole model bring their own
        self._words = [words]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self._words[0].weight)


class LxmertPretrainer(nn.Module):
    """transformers' ``LxmertForPreTraining``, as ``model``, and all that its heads say.

    Args:
        model: with CATT or without.
        mask: the word that stands for a hidden one.
    """

    def __init__(self, model: Any, mask: int) -> None:
        super().__init__()
        self.model: Any = model
        self.mask = mask
        model.cls.predictions.decoder = _Tied(model.lxmert.embeddings.word_embeddings)

    @property
    def words(self) -> int:
        """Size of the vocabulary."""
        return int(self.model.config.vocab_size)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits.

        Args:
            inputs: ``input_ids`` and ``attention_mask`` ``(B, N)``; ``visual_feats`` ``(B, M, F)``, ``visual_pos`` ``(B, M, 4)``, ``visual_attention_mask``
                ``(B, M)``; others are passed over.

        Returns:
            ``words`` ``(B, N, V)``, ``matched`` ``(B, 2)``, ``answers`` ``(B, A)``; of regions ``objects`` and ``attributes`` ``(B, M, …)`` and ``features``
            ``(B, M, F)``.
        """
        names = ("input_ids", "attention_mask", "visual_feats", "visual_pos", "visual_attention_mask")
        out = self.model.lxmert(**{name: inputs[name] for name in names if name in inputs})
        words, matched = self.model.cls(out.language_output, out.pooled_output)
        regions = self.model.obj_predict_head(out.vision_output)
        named = {"words": words, "matched": matched, "answers": self.model.answer_head(out.pooled_output)}
        return named | {"objects": regions["obj"], "attributes": regions["attr"], "features": regions["feat"]}


@register_model
@dataclass(frozen=True, kw_only=True)
class LxmertPretraining(Lxmert):
    """LXMERT that is pre-trained, with CATT's dictionaries or without. Random weights but for what ``bert`` gives."""

    targets: ClassVar[str] = "region-sentences"
    about: ClassVar[str] = "LXMERT with the heads of its pre-training"

    bert: str | None = None
    """A folder, or a name on the Hugging Face hub, with a BERT, which gives the words, the layers of words and the pooler, as published; none if None. Of its
    width, and ``num_heads`` of its own."""

    def build(self, *, words: int, region_dim: int, outputs: int, objects: int, attributes: int, mask: int) -> nn.Module:  # type: ignore[override]
        """The network.

        Args:
            words: size of the vocabulary.
            region_dim: F, numbers of a region's features.
            outputs: answers.
            objects: kinds of objects.
            attributes: attributes.
            mask: the word that stands for a hidden one.

        Raises:
            ValueError: ``base`` or ``start`` is given; no BERT at ``bert``, or one of another width, or of fewer layers or words.
        """
        for name in ("base", "start"):
            if (given := getattr(self, name)) is not None:
                raise InputError(f"{name} is an LXMERT that was pre-trained, and this is to be pre-trained; leave {name}={given} out, or give a BERT as bert")
        try:
            from transformers import LxmertForPreTraining
        except ImportError as error:
            raise missing_extra("transformers", "hf", "LXMERT") from error
        config = self._new(words, region_dim).config
        config.num_qa_labels, config.num_object_labels, config.num_attr_labels = outputs, objects, attributes
        model: Any = LxmertForPreTraining(config)
        if self.bert is not None:
            _begin_with_bert(model.lxmert, self.bert)
        self._put_catt(model)
        return LxmertPretrainer(model, mask)

    def smoke_model(self) -> "LxmertPretraining":
        small = {"width": 32, "num_heads": 4, "l_layers": 2, "r_layers": 2, "x_layers": 2, "dropout": 0.0, "entries_vision": 12, "entries_language": 8}
        return replace(self, bert=None, start=None, **small)  # type: ignore[arg-type]


def _begin_with_bert(lxmert: Any, bert: str) -> None:
    from transformers import BertModel

    try:
        found: Any = BertModel.from_pretrained(bert)
    except (OSError, ValueError) as error:
        raise InputError(f"no BERT could be read at {bert}: {str(error).splitlines()[0]}; give its folder as --model.bert") from None
    state, own = found.state_dict(), lxmert.state_dict()
    wanted = [name for name in own if name.startswith(("embeddings.", "encoder.layer.", "pooler."))]
    for name in wanted:
        if name not in state or state[name].shape != own[name].shape:
            got = "lacks it" if name not in state else f"has it as {tuple(state[name].shape)}"
            raise InputError(f"{bert} cannot begin this LXMERT: {name} is {tuple(own[name].shape)} here, and the BERT {got}; give width and layers of its own")
    lxmert.load_state_dict(own | {name: state[name] for name in wanted})
