"""Whole networks of yangxuntu/lxmertcatt: LXMERT with CATT.

Official names are transformers' but for the second stream:

======================================================  ==============================================================
official                                                here, under ``lxmert.encoder``
======================================================  ==============================================================
``encoder.{layer,r_layers}.i.attention.att`` (shared)   ``{layer,r_layers}.i.attention.self``
``encoder.{layer,r_layers}.i.FT…``                      a layer of ``catt.{layer,r_layers}``; ``FTattention.att`` is ``attention.self``
``encoder.x_layers.i.M_…``                              ``catt.x_layers.i``
``encoder.{MV,ML}`` (1, K, C)                           ``catt.dictionary_{vision,language}.entries`` (K, C)
``encoder.fc_{visn,lang}``                              ``catt.fuse_{vision,language}``
======================================================  ==============================================================

A fine-tuned file has ``lxrt_encoder.model.bert.`` before these and a head ``logit_fc``, a pre-trained one ``bert.`` and heads with transformers' names.
"""

import re
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._errors import InputError, missing_extra, unknown
from ._registry import State, kind

__all__: list[str] = []

_WITHIN = re.compile(r"encoder\.(layer|r_layers)\.(\d+)\.(FT)?(.+)")
_ACROSS = re.compile(r"encoder\.x_layers\.(\d+)\.M_(.+)")
_SINGLE = {
    "encoder.MV": "encoder.catt.dictionary_vision.entries",
    "encoder.ML": "encoder.catt.dictionary_language.entries",
    **{f"encoder.fc_visn.{field}": f"encoder.catt.fuse_vision.{field}" for field in ("weight", "bias")},
    **{f"encoder.fc_lang.{field}": f"encoder.catt.fuse_language.{field}" for field in ("weight", "bias")},
}
_FINE_TUNED, _PRETRAINED = "lxrt_encoder.model.bert.", "bert."

BertType = Literal["ft", "ft_same"]


def _catt(
    bert_type: BertType = "ft",
    cross_type: str = "g2g",
    ft_large: int = 0,
    visual_dictionary: int = 500,
    language_dictionary: int = 500,
    compat: bool = True,
    **sizes: Any,
) -> Any:
    """``CattLxmert`` of the official constructor's words. All that is not ``g2l`` is ``g2g`` there."""
    if bert_type not in ("ft", "ft_same"):
        raise unknown("bert_type of official LXMERT with CATT", bert_type, ("ft", "ft_same"))
    try:
        from transformers import LxmertConfig
    except ImportError as error:
        raise missing_extra("transformers", "hf", "the official kinds catt.lxmert") from error
    # not at the top: it needs timm, and Foveal alone does not
    from ..models.lxmert import CattLxmert

    return CattLxmert(
        LxmertConfig(**sizes),
        "chained" if bert_type == "ft_same" or ft_large else "single",
        share=bert_type == "ft_same",
        cross="g2l" if cross_type == "g2l" else "g2g",
        dictionaries=(visual_dictionary, language_dictionary),
        compat=compat,
        init="uniform",
    )


def _network(
    vocab_size: int = 30522,
    hidden_size: int = 768,
    num_attention_heads: int = 12,
    intermediate_size: int = 3072,
    l_layers: int = 9,
    x_layers: int = 5,
    r_layers: int = 5,
    visual_feat_dim: int = 2048,
    visual_pos_dim: int = 4,
    max_position_embeddings: int = 512,
    bert_type: BertType = "ft",
    cross_type: str = "g2g",
    ft_large: int = 0,
    visual_dictionary: int = 500,
    language_dictionary: int = 500,
    compat: bool = True,
) -> nn.Module:
    network: nn.Module = _catt(**locals())
    return network


def _answers(num_answers: int, **settings: Any) -> nn.Module:
    from ..models.lxmert import LxmertReader

    return LxmertReader(_catt(**settings).lxmert, num_answers)


def _pairs(**settings: Any) -> nn.Module:
    from ..models.lxmert import LxmertReader

    return LxmertReader(_catt(**settings).lxmert, 2, images=2)


def _pretraining(num_answers: int = 9500, **settings: Any) -> nn.Module:
    try:
        from transformers import LxmertForPreTraining
    except ImportError as error:
        raise missing_extra("transformers", "hf", "the official kinds catt.lxmert") from error
    base = _catt(**settings).lxmert
    base.config.num_qa_labels = num_answers
    model: Any = LxmertForPreTraining(base.config)
    model.lxmert = base
    model.tie_weights()
    network: nn.Module = model
    return network


@kind("catt.lxmert", build=_network)
def _translate(state: State, *, ft_large: int = 0, bert_type: BertType = "ft", **settings: Any) -> dict[str, Tensor]:
    for prefix in (_FINE_TUNED, _PRETRAINED):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return _renamed(state, "lxmert.", bert_type == "ft_same" or bool(ft_large), settings)


@kind("catt.lxmert_answers", build=_answers)
@kind("catt.lxmert_nlvr2", build=_pairs)
def _translate_fine_tuned(state: State, *, ft_large: int = 0, bert_type: BertType = "ft", **settings: Any) -> dict[str, Tensor]:
    """A file of VQA, GQA or NLVR2, with its head."""
    return _parted(state, _FINE_TUNED, lambda key: f"answer_head.{key}" if key.startswith("logit_fc.") else "", ft_large, bert_type, settings)


@kind("catt.lxmert_pretraining", build=_pretraining)
def _translate_pretrained(state: State, *, ft_large: int = 0, bert_type: BertType = "ft", **settings: Any) -> dict[str, Tensor]:
    """A file of pre-training, with transformers' own heads."""
    words, tied = state.get(f"{_PRETRAINED}embeddings.word_embeddings.weight"), state.get("cls.predictions.decoder.weight")
    if words is not None and tied is not None and not torch.equal(words, tied):
        raise InputError("this file has other words in cls.predictions.decoder.weight than in its embeddings, and LXMERT has one table for both")
    heads = ("cls.", "obj_predict_head.", "answer_head.")
    return _parted(state, _PRETRAINED, lambda key: key if key.startswith(heads) else "", ft_large, bert_type, settings)


def _parted(state: State, prefix: str, head: Callable[[str], str], ft_large: int, bert_type: BertType, settings: dict[str, Any]) -> dict[str, Tensor]:
    heads = {key: head(key) for key in state if not key.startswith(prefix)}
    if strange := [key for key, ours in heads.items() if not ours]:
        raise InputError(f"{strange[0]!r} is no key of this official LXMERT; expected {prefix}… and the heads of its task")
    inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    chained = bert_type == "ft_same" or bool(ft_large)
    return _renamed(inner, "lxmert.", chained, settings) | {ours: state[key] for key, ours in heads.items()}


def _renamed(state: State, prefix: str, chained: bool, settings: dict[str, Any]) -> dict[str, Tensor]:
    depth = {"layer": settings.get("l_layers", 9), "r_layers": settings.get("r_layers", 5)}
    out = {}
    for key, value in state.items():
        ours = key
        if key in _SINGLE:
            ours = _SINGLE[key]
            value = value.squeeze(0) if key in ("encoder.MV", "encoder.ML") and value.shape[:1] == (1,) else value
        elif match := _ACROSS.fullmatch(key):
            ours = f"encoder.catt.x_layers.{match[1]}.{match[2]}"
        elif match := _WITHIN.fullmatch(key):
            stack, index, second, rest = match[1], int(match[2]), bool(match[3]), match[4].replace("attention.att.", "attention.self.", 1)
            # the only second layer of a single mode is that of the last
            place = index if chained else index - depth[stack] + 1
            if second and not 0 <= place < depth[stack]:
                raise InputError(f"{key!r} is of a second stream in layer {index}, and with these settings only layer {depth[stack] - 1} has one; see ft_large")
            ours = f"encoder.catt.{stack}.{place}.{rest}" if second else f"encoder.{stack}.{index}.{rest}"
        if prefix + ours in out:
            raise InputError(f"this official state dict has two tensors for {prefix + ours}, the second of them {key!r}")
        out[prefix + ours] = value
    return out
