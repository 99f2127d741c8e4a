"""CATT put into transformers' LXMERT, in place; and the whole network."""

from typing import Any

import torch
from torch import Tensor, nn

from ..._errors import InputError, missing_extra
from ...attention.dictionary import DictionaryInit
from .streams import CattLxmertEncoder, CattParts, Cross, Mode, Second, Start

__all__ = ["CattLxmert", "catt_lxmert_", "unreached"]


_LAYERS = (
    ("layer", "LxmertLayer", "attention.self"),
    ("r_layers", "LxmertLayer", "attention.self"),
    ("x_layers", "LxmertXLayer", "visual_attention.att"),
)
"""Stacks of the encoder, what their layers are, and where in these the attention is that is asked with one thing and reads another."""


class CattLxmert(nn.Module):
    """LXMERT with CATT, without a head. All of transformers' modules stand under ``lxmert`` with their names.

    Args:
        config: transformers' ``LxmertConfig``.
        mode: where dictionaries are read, see :data:`~foveal.models.lxmert.Mode`; ``single`` is the official ``ft``, ``chained`` ``ft_same`` and ``ft_large``.
        share: the second stream has the weights of the first, as in ``ft_same``; else weights of its own.
        cross: see :data:`~foveal.models.lxmert.Cross`.
        dictionaries: entries for regions and for words; the authors have 500 of each in pre-training, 800 in questions.
        second: what the second stream reads; ``in_sample`` is the control without a dictionary.
        compat: cross layers as the official code has them, of which only the last is of use.
        init: how dictionaries start; ``uniform`` is what the official code does, ``kmeans`` what the paper says, to be fitted.
        trainable: dictionaries are trained.
        start: ``paper`` draws all that is new from N(0, 0.02); ``identity`` begins as LXMERT of the same weights.

    Shape:
        words ``(B, N)``, features ``(B, M, F)`` and boxes ``(B, M, 4)`` of regions -> language ``(B, N, C)``, vision ``(B, M, C)``, pooled ``(B, C)``.

    Raises:
        ValueError: see :func:`catt_lxmert_`; transformers is not installed.
    """

    def __init__(
        self,
        config: Any,
        mode: Mode = "single",
        *,
        share: bool = True,
        cross: Cross = "g2g",
        dictionaries: tuple[int, int] = (500, 500),
        second: Second = "dictionary",
        compat: bool = False,
        init: DictionaryInit = "normal",
        trainable: bool = True,
        start: Start = "paper",
    ) -> None:
        super().__init__()
        try:
            from transformers import LxmertModel
        except ImportError as error:
            raise missing_extra("transformers", "hf", "LXMERT") from error
        self.lxmert: Any = LxmertModel(config)
        catt_lxmert_(
            self.lxmert, mode, share=share, cross=cross, dictionaries=dictionaries, second=second, compat=compat, init=init, trainable=trainable, start=start
        )

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Tensor | None,
        visual_feats: Tensor,
        visual_pos: Tensor,
        visual_attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Language, vision and pooled, in the order of the official network.

        Args:
            input_ids: words, ``(B, N)``.
            token_type_ids: ``(B, N)``; zeros if None.
            attention_mask: 1 where a word is, 0 where padding, ``(B, N)``; ones if None.
            visual_feats: ``(B, M, F)``.
            visual_pos: boxes as shares of the image, ``(B, M, 4)``.
            visual_attention_mask: likewise of regions, ``(B, M)``.

        Raises:
            ValueError: features and boxes that are not as many.
        """
        out = self.lxmert(
            input_ids=input_ids,
            token_type_ids=token_type_ids,
            attention_mask=attention_mask,
            visual_feats=visual_feats,
            visual_pos=visual_pos,
            visual_attention_mask=visual_attention_mask,
            return_dict=True,
        )
        return out.language_output, out.vision_output, out.pooled_output


def catt_lxmert_(
    model: Any,
    mode: Mode = "single",
    *,
    share: bool = False,
    cross: Cross = "g2g",
    dictionaries: tuple[int, int] = (500, 500),
    second: Second = "dictionary",
    compat: bool = False,
    init: DictionaryInit = "normal",
    trainable: bool = True,
    start: Start = "identity",
) -> CattParts:
    """Put CATT into an LXMERT of transformers, in place: a second stream that reads a dictionary for words and one for regions, fused at the top.

    All weights and names stay; what is new stands in the encoder as ``catt``. With ``start="identity"`` the model computes what it did before. It is called,
    trained and saved as before; to load what was saved, build the model and call this first.

    Args:
        model: ``LxmertModel``, ``LxmertForQuestionAnswering`` or ``LxmertForPreTraining``, or any module that holds one of them.
        mode: see :data:`~foveal.models.lxmert.Mode`.
        share: the second stream has the weights of the first; else copies of them, which learn on their own.
        cross: see :data:`~foveal.models.lxmert.Cross`.
        dictionaries: entries for regions and for words.
        second: see :data:`~foveal.models.lxmert.Second`.
        compat: cross layers as the official code has them.
        init: how dictionaries start; with ``kmeans`` call :func:`foveal.fit_dictionaries_` before anything else, which fits them to embedded words and regions.
        trainable: dictionaries are trained.
        start: see :data:`~foveal.models.lxmert.Start`.

    Returns:
        What was put in.

    Raises:
        ValueError: no LXMERT, or several; CATT is there already; a modality without a layer; an unknown word. The model is then as it was.

    Example:
        >>> from transformers import LxmertConfig, LxmertForQuestionAnswering
        >>> sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "l_layers": 2, "r_layers": 2, "x_layers": 2}
        >>> model = LxmertForQuestionAnswering(LxmertConfig(**sizes, vocab_size=50, visual_feat_dim=16, num_qa_labels=7)).eval()
        >>> asked = {"input_ids": torch.tensor([[1, 7, 8]]), "visual_feats": torch.randn(1, 5, 16), "visual_pos": torch.rand(1, 5, 4)}
        >>> before = model(**asked).question_answering_score
        >>> _ = catt_lxmert_(model, dictionaries=(20, 10))
        >>> torch.allclose(model(**asked).question_answering_score, before, atol=1e-6)
        True
    """
    inner = _inner(model)
    parts = CattParts(
        inner.encoder, mode, share=share, cross=cross, dictionaries=dictionaries, second=second, compat=compat, init=init, trainable=trainable, start=start
    )
    inner.encoder = CattLxmertEncoder(inner.encoder, parts.train(inner.training))
    return parts


def _inner(model: Any) -> Any:
    """transformers' ``LxmertModel``, out of what is around it."""
    found = [module for module in model.modules() if type(module).__name__ == "LxmertModel"] if isinstance(model, nn.Module) else []
    if len(found) != 1:
        raise InputError(f"expected a model with one LxmertModel of transformers in it, got {type(model).__name__} with {len(found)}")
    encoder = found[0].encoder
    if isinstance(encoder, CattLxmertEncoder):
        raise InputError("this LXMERT has CATT already; build it anew to have it otherwise")
    for name, kind, within in _LAYERS:
        for layer in getattr(encoder, name, ()):
            if type(layer).__name__ != kind or type(dict(layer.named_modules()).get(within)).__name__ != "LxmertAttention":
                raise InputError(f"layers of encoder.{name} are not all transformers' own {kind} with LxmertAttention; put CATT in before they are changed")
    return found[0]


def unreached(model: nn.Module, loss: Tensor) -> list[str]:
    """Names of the trainable parameters that a scalar does not depend on.

    A head that reads the pooled sentence alone leaves out the last cross layer's half for regions and all above it, in LXMERT itself as in this.
    """
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    found = torch.autograd.grad(loss, [value for _, value in named], allow_unused=True)
    return [name for (name, _), gradient in zip(named, found, strict=True) if gradient is None]
