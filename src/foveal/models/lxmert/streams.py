"""LXMERT's encoder with CATT's second stream, which reads a dictionary in the place of the sample.

Papers     CATT (Yang et al., CVPR 2021, arXiv 2103.03493), LXMERT (Tan and Bansal, EMNLP 2019, arXiv 1908.07490)
Official   yangxuntu/lxmertcatt ``src/lxrt/modeling.py`` at 452dfcc
Formula    Blk(q; kv) is a whole layer of one modality with queries and residual from q; Blk' the same with weights of its own, or shared.
           single    layers below the last: L ← Blk(L; L);  last: c_L = Blk'(L; D_L), L ← Blk(L; L), both of the layer's input; the same for V
           chained   c ← D;  each layer: c ← Blk'(L; c), L ← Blk(L; L)
           across    L, V ← X(L, V);  g2g: o = X'(c_L, c_V);  g2l: o_L = X'(L; c_V), o_V = X'(V; c_L), of the layer's inputs;  c ← o
           top       L = W_l [L; o_L] + b,  V = W_v [V; o_V] + b
Differs    The official cross layers all read the c of before the stack, so that only the last one's o is of use and the weights of all others' X' get no
           gradient: so it is with ``compat=True``, where the useless ones are not computed. By default a layer reads what the one below it made.
           ``second="in_sample"`` is ours: the control whose second stream reads the sample again, and no dictionary.
Note       c adds the sample's own tokens by its residual connections, so it is not purely of other samples.
Status     outputs and gradients of all official modes equal to the official ones (tests/official/test_catt_lxmert.py)

Shapes     B batch, N words, M regions, C channels, K entries of a dictionary
"""

import copy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..._errors import InputError, unknown
from ...attention import CrossSampleDictionary
from ...attention.dictionary import DictionaryInit

__all__ = ["CattLxmertEncoder", "CattParts", "Cross", "Mode", "Second", "Start"]

Mode = Literal["single", "chained"]
"""Where a dictionary is read: ``single`` in the last layer of its modality, ``chained`` in the first, and further layers read what the one below made of it."""
Cross = Literal["g2g", "g2l"]
"""What the second stream's cross layers ask with: the second stream itself, or the first."""
Second = Literal["dictionary", "in_sample"]
"""What the second stream reads: a dictionary, or the tokens of the sample again, which is the control."""
Start = Literal["identity", "paper"]
"""``identity``: second weights are copies of the first, and what they make is not read at first; ``paper``: both drawn from N(0, 0.02)."""


class CattParts(nn.Module):
    """What is new in the encoder, which stands in it as ``catt``.

    Args:
        host: transformers' ``LxmertEncoder``.
        mode: see :data:`Mode`.
        share: the second stream has the weights of the first; else its own.
        cross: see :data:`Cross`.
        dictionaries: entries for regions and for words.
        second: see :data:`Second`.
        compat: every cross layer reads the second stream of before the stack, as the official code does.
        init: how dictionaries start, see :data:`~foveal.attention.dictionary.DictionaryInit`.
        trainable: dictionaries are trained.
        start: see :data:`Start`.

    Raises:
        ValueError: an unknown word; a modality without a layer; dictionaries without an entry.
    """

    def __init__(
        self,
        host: Any,
        mode: Mode,
        *,
        share: bool,
        cross: Cross,
        dictionaries: tuple[int, int],
        second: Second,
        compat: bool,
        init: DictionaryInit,
        trainable: bool,
        start: Start,
    ) -> None:
        super().__init__()
        for what, got, known in (("mode", mode, Mode), ("cross", cross, Cross), ("second", second, Second), ("start", start, Start)):
            if got not in get_args(known):
                raise unknown(f"{what} of CATT in LXMERT", got, get_args(known))
        stacks = {"l_layers": host.layer, "r_layers": host.r_layers, "x_layers": host.x_layers}
        if empty := [name for name, stack in stacks.items() if not len(stack)]:
            raise InputError(f"CATT reads a dictionary in a layer of each modality and needs one that joins them; this LXMERT has {empty[0]}=0")
        self.mode, self.share, self.cross, self.second, self.compat = mode, share, cross, second, compat
        like = next(host.parameters())
        width, factory = host.config.hidden_size, {"device": like.device, "dtype": like.dtype}
        self.dictionary_language: CrossSampleDictionary | None = None
        self.dictionary_vision: CrossSampleDictionary | None = None
        if second == "dictionary":
            sizes = dict(zip(("vision", "language"), dictionaries, strict=True))
            self.dictionary_language = CrossSampleDictionary(sizes["language"], width, init=init, trainable=trainable, **factory)
            self.dictionary_vision = CrossSampleDictionary(sizes["vision"], width, init=init, trainable=trainable, **factory)
        self.layer, self.r_layers, self.x_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        if not share:
            read = slice(-1, None) if mode == "single" else slice(None)
            self.layer = copy.deepcopy(host.layer[read])
            self.r_layers = copy.deepcopy(host.r_layers[read])
            self.x_layers = copy.deepcopy(host.x_layers)
        self.fuse_language = nn.Linear(2 * width, width, **factory)
        self.fuse_vision = nn.Linear(2 * width, width, **factory)
        self._start(start, width, host.config.initializer_range)

    @torch.no_grad()
    def _start(self, start: Start, width: int, deviation: float) -> None:
        for fuse in (self.fuse_language, self.fuse_vision):
            nn.init.zeros_(fuse.bias)
            fuse.weight.copy_(torch.eye(width, 2 * width))
        if start == "identity":
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=deviation)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def settings(self) -> dict[str, Any]:
        """How it was built, as values of JSON."""
        sizes = [0 if one is None else one.size for one in (self.dictionary_vision, self.dictionary_language)]
        return {"mode": self.mode, "share": self.share, "cross": self.cross, "second": self.second, "compat": self.compat, "dictionaries": sizes}

    def no_weight_decay(self) -> set[str]:
        return {"dictionary_language.entries", "dictionary_vision.entries"} if self.second == "dictionary" else set()


class CattLxmertEncoder(nn.Module):
    """In the place of transformers' ``LxmertEncoder``, with its modules under their names, and :class:`CattParts` as ``catt``.

    Called and answering as that one; the last hidden states are the fused ones, and the attentions it gives are those of the first stream.
    ``foveal.attention_maps`` shows those of both.
    """

    def __init__(self, host: Any, catt: CattParts) -> None:
        super().__init__()
        self.visn_fc, self.config = host.visn_fc, host.config
        self.layer, self.x_layers, self.r_layers = host.layer, host.x_layers, host.r_layers
        self.num_l_layers, self.num_x_layers, self.num_r_layers = len(host.layer), len(host.x_layers), len(host.r_layers)
        self.catt = catt
        self.train(host.training)

    def forward(
        self,
        lang_feats: Tensor,
        lang_attention_mask: Tensor | None,
        visual_feats: Tensor,
        visual_pos: Tensor,
        visual_attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
    ) -> tuple[Any, Any, Any]:
        """As transformers' own.

        Args:
            lang_feats: embedded words, ``(B, N, C)``.
            lang_attention_mask: what is added to logits, ``(B, 1, 1, N)``.
            visual_feats: features of regions, ``(B, M, F)``.
            visual_pos: their boxes, ``(B, M, 4)``.
            visual_attention_mask: of regions, ``(B, 1, 1, M)``.
            output_attentions: give maps of the first stream.

        Raises:
            ValueError: as many features as boxes are wanted, and as many images as sentences; a dictionary that was to be fitted and was not.
        """
        _check(self.config, lang_feats, visual_feats, visual_pos)
        catt, shown = self.catt, bool(output_attentions)
        regions = self.visn_fc(visual_feats, visual_pos)
        language = _Stream(self.layer, catt.layer, lang_feats, lang_attention_mask, catt.dictionary_language)
        vision = _Stream(self.r_layers, catt.r_layers, regions, visual_attention_mask, catt.dictionary_vision)
        for stream in (language, vision):
            stream.run(catt.mode, shown)
        hidden, seen = language.hidden, vision.hidden
        second, joint = (language.second, vision.second), ()
        across: tuple[Tensor, Tensor] = second
        for depth, layer in enumerate(self.x_layers):
            out = layer(hidden, lang_attention_mask, seen, visual_attention_mask, output_attentions=shown)
            # of the official cross layers the last one's alone is of use
            if not catt.compat or depth == self.num_x_layers - 1:
                half = layer if catt.share else catt.x_layers[depth]
                across = _across(half, catt.cross, (hidden, seen), second, lang_attention_mask, visual_attention_mask)
                second = across
            hidden, seen = out[:2]
            language.states.append(hidden)
            vision.states.append(seen)
            joint = (*joint, *out[2:])
        language.states[-1] = catt.fuse_language(torch.cat([hidden, across[0]], dim=-1))
        vision.states[-1] = catt.fuse_vision(torch.cat([seen, across[1]], dim=-1))
        maps = [tuple(stream.maps) if shown else None for stream in (vision, language)]
        return (tuple(vision.states), maps[0]), (tuple(language.states), maps[1]), joint if shown else None


class _Stream:
    """The layers of one modality, with its second stream."""

    def __init__(self, layers: Any, halves: Any, tokens: Tensor, mask: Tensor | None, dictionary: CrossSampleDictionary | None) -> None:
        self.layers, self.halves, self.hidden, self.mask = layers, halves, tokens, mask
        self.entries = None if dictionary is None else dictionary(tokens if dictionary.fitted else _present(tokens, mask))
        self.second = tokens
        self.states: list[Tensor] = []
        self.maps: list[Tensor] = []

    def run(self, mode: Mode, shown: bool) -> None:
        """Through all layers."""
        first = len(self.layers) - 1 if mode == "single" else 0
        for depth, layer in enumerate(self.layers):
            out = layer(self.hidden, self.mask, output_attentions=shown)
            if depth >= first:
                half = self.halves[depth - first] if len(self.halves) else layer
                # the mask is of tokens, and holds for what was made of them, never for a dictionary
                read, mask = (self.second, self.mask) if depth > first else (self.entries, None) if self.entries is not None else (self.hidden, self.mask)
                self.second = _block(half, self.hidden, read, mask)
            self.hidden = out[0]
            self.states.append(self.hidden)
            self.maps += out[1:]


def _block(layer: Any, queries: Tensor, read: Tensor, mask: Tensor | None) -> Tensor:
    """A whole ``LxmertLayer`` that asks with one thing and reads another."""
    attended = layer.attention.output(layer.attention.self(queries, read, mask)[0], queries)
    out: Tensor = layer.output(layer.intermediate(attended), attended)
    return out


def _across(
    layer: Any, cross: Cross, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], words: Tensor | None, regions: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A whole ``LxmertXLayer`` of the second stream."""
    if cross == "g2g":
        language, vision = layer(second[0], words, second[1], regions)
        return language, vision
    asked = layer.visual_attention(first[0], second[1], ctx_att_mask=regions)[0], layer.visual_attention(first[1], second[0], ctx_att_mask=words)[0]
    language, vision = layer.output_fc(*layer.self_att(asked[0], words, asked[1], regions))
    return language, vision


def _present(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Those that are no padding, ``(…, C)``."""
    return tokens if mask is None else tokens[mask[:, 0, 0] > torch.finfo(mask.dtype).min / 2]


def _check(config: Any, words: Tensor, features: Tensor, boxes: Tensor) -> None:
    """What would be stretched to fit, and give an answer."""
    if features.ndim != 3 or boxes.ndim != 3 or features.shape[1] != boxes.shape[1]:
        raise InputError(
            f"expected as many boxes (B, M, {config.visual_pos_dim}) as features of regions (B, M, {config.visual_feat_dim}), "
            f"got {tuple(boxes.shape)} and {tuple(features.shape)}"
        )
    if features.shape[2] != config.visual_feat_dim or boxes.shape[2] != config.visual_pos_dim:
        raise InputError(
            f"this LXMERT reads features of {config.visual_feat_dim} numbers and boxes of {config.visual_pos_dim}, got {features.shape[2]} and {boxes.shape[2]}"
        )
    if not words.shape[0] == features.shape[0] == boxes.shape[0]:
        raise InputError(f"expected as many images as sentences, got {features.shape[0]} of features, {boxes.shape[0]} of boxes and {words.shape[0]} sentences")
