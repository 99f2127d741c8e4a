"""LXMERT with and without CATT, as a recipe has it."""

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ..._errors import InputError, missing_extra
from ..._ranges import Range
from ...attention import CrossSampleDictionary
from ...attention.dictionary import DictionaryInit
from .._config import Arm, ModelConfig, register_model
from .attach import catt_lxmert_, unreached
from .heads import LxmertReader
from .start import Trunk
from .streams import Cross, Second

__all__ = ["Lxmert"]

_LAYERS = ("l_layers", "r_layers", "x_layers")


@register_model
@dataclass(frozen=True, kw_only=True)
class Lxmert(ModelConfig):
    """LXMERT of transformers with a head on its pooled sentence, with CATT's dictionaries or without. What the head does not reach is frozen.

    Raises:
        ValueError: ``base`` and ``start`` at once.
    """

    targets: ClassVar[str] = "answer-scores"
    about: ClassVar[str] = "LXMERT, which reads words and regions"
    baseline: ClassVar[str] = "none"
    default_arms: ClassVar[tuple[str, ...]] = ("none", "doubled", "single", "chained", "random")
    rivals: ClassVar[dict[str, str]] = {"single": "doubled", "chained": "doubled-chained"}
    ranges: ClassVar[Mapping[str, Range]] = dict.fromkeys((*_LAYERS, "entries_language", "entries_vision"), Range(at_least=1))

    base: str | None = None
    """A folder, or a name on the Hugging Face hub, with an LXMERT; None makes one with random weights of the sizes below."""
    start: Path | None = None
    """A ``model.safetensors`` of a run of pre-training, or of questions, whose LXMERT this one begins with, its dictionaries too; the head is new. If the run
    had no CATT and this has it, CATT is put into it as into a base. Settings and sizes must be those of the run. Of ``base`` and this, one."""
    catt: Literal["none", "single", "chained"] = "single"
    """Where dictionaries are read: in the last layer of each modality, or in a chain from the first; or LXMERT as it is."""
    share: bool = False
    """The second stream has the weights of the first."""
    cross: Cross = "g2g"
    """What the second stream's cross layers ask with: the second stream (g2g), or the first (g2l)."""
    second: Second = "dictionary"
    """What the second stream reads: a dictionary, or the sample again (in_sample), which is the control."""
    compat: bool = False
    """Cross layers as the official code has them, of which only the last is of use."""
    entries_vision: int = 500
    """Entries of the dictionary for regions."""
    entries_language: int = 500
    """Entries of that for words."""
    init: DictionaryInit = "kmeans"
    """How dictionaries start: clusters of the training set's embedded words and regions, the paper's; or at random."""
    trainable: bool = True
    """Train the dictionaries."""
    width: int = 64
    """Of the tokens, where there is no base."""
    num_heads: int = 4
    """Heads, where there is no base."""
    l_layers: int = 2
    """Layers of words, where there is no base."""
    r_layers: int = 2
    """Layers of regions."""
    x_layers: int = 2
    """Layers of both."""
    dropout: float = 0.1
    """Of hidden states and maps, where there is no base."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base is not None and self.start is not None:
            raise InputError(f"base and start are both an LXMERT to begin with; give one of base={self.base} and start={self.start}")

    def build(self, *, words: int, region_dim: int, outputs: int, images: int) -> nn.Module:  # type: ignore[override]
        """The network.

        Args:
            words: size of the vocabulary.
            region_dim: F, numbers of a region's features.
            outputs: answers, or classes.
            images: of a sentence, 1 or 2.

        Raises:
            ValueError: no LXMERT at ``base``, or one of another vocabulary or other features; for ``start`` what ``foveal.models.lxmert.start.Trunk`` refuses.
        """
        lxmert = self._new(words, region_dim) if self.base is None else _read(self.base)
        known = lxmert.config
        if known.visual_feat_dim != region_dim or words > known.vocab_size:
            raise InputError(
                f"the LXMERT reads features of {known.visual_feat_dim} numbers and has {known.vocab_size} words, and the data have features of "
                f"{region_dim} and {words} words; give both the same base"
            )
        trunk = None if self.start is None else Trunk(Path(self.start), self)
        # second weights start as copies, of what the run learned where it had none of its own
        if trunk is not None and not trunk.catt:
            trunk.fill_(lxmert)
        self._put_catt(lxmert)
        if trunk is not None and trunk.catt:
            trunk.fill_(lxmert)
        model: Any = LxmertReader(lxmert, outputs, images)
        for name in _unread(model, region_dim):
            model.get_parameter(name).requires_grad_(False)
        if trunk is not None:
            taken = {f"lxmert.{name}" for name in trunk.weights}
            model.new_parameter_names = tuple(name for name, _ in model.named_parameters() if name not in taken)
        made: nn.Module = model
        return made

    def new_parameters(self, model: nn.Module) -> frozenset[str]:
        return frozenset(getattr(model, "new_parameter_names", ()))

    def begin_(self, model: nn.Module, split: Any, seed: int) -> list[str]:
        """What was taken over of ``start`` was so when the network was built; here it is said."""
        if self.start is None:
            return []
        new = self.new_parameters(model)
        parts = Counter("the head" if name.startswith("answer_head.") else "CATT" for name in new)
        count = sum(1 for _ in model.parameters()) - len(new)
        return [f"{count} weights are those of {self.start}; new are {' and '.join(f'{number} of {part}' for part, number in sorted(parts.items()))}"]

    def _put_catt(self, model: Any) -> None:
        if self.catt == "none":
            return
        sizes = (self.entries_vision, self.entries_language)
        own: dict[str, Any] = {"share": self.share, "cross": self.cross, "second": self.second, "compat": self.compat, "init": self.init}
        catt_lxmert_(model, self.catt, dictionaries=sizes, trainable=self.trainable, **own)

    def _new(self, words: int, region_dim: int) -> Any:
        try:
            from transformers import LxmertConfig, LxmertModel
        except ImportError as error:
            raise missing_extra("transformers", "hf", "LXMERT") from error
        return LxmertModel(
            LxmertConfig(
                vocab_size=words,
                hidden_size=self.width,
                num_attention_heads=self.num_heads,
                intermediate_size=4 * self.width,
                visual_feat_dim=region_dim,
                hidden_dropout_prob=self.dropout,
                attention_probs_dropout_prob=self.dropout,
                max_position_embeddings=64,
                # of the published width; narrower tokens would start as good as equal
                initializer_range=0.02 * (768 / self.width) ** 0.5,
                **{name: getattr(self, name) for name in _LAYERS},
            )
        )

    def smoke_model(self) -> "Lxmert":
        # dropout hides in some steps what so few samples teach
        own = replace(self, base=None, start=None, width=32, dropout=0.0)
        return replace(own, entries_vision=min(self.entries_vision, 12), entries_language=min(self.entries_language, 8))

    def plain(self) -> ModelConfig:
        return replace(self, catt="none")

    def arms(self) -> dict[str, Arm]:
        """CATT's modes, and what each has to be held against."""
        one = replace(self, catt="single", second="dictionary", init="kmeans", trainable=True, share=False)
        chain = replace(one, catt="chained")
        found = {
            "none": ("LXMERT as it is", self.plain()),
            "doubled": ("a second stream that reads the sample again: as single, without a dictionary", replace(one, second="in_sample")),
            "doubled-chained": ("the same as chained, without a dictionary", replace(chain, second="in_sample")),
            "single": ("CATT, dictionaries of clusters in the last layers", one),
            "single-shared": ("the same, with the weights of the first stream", replace(one, share=True)),
            "chained": ("CATT, dictionaries in a chain from the first layers", chain),
            "chained-shared": ("the same, with the weights of the first stream", replace(chain, share=True)),
            "random": ("CATT as single, from random dictionaries", replace(one, init="normal")),
            "random-frozen": ("CATT as single, with random dictionaries that are not trained", replace(one, init="normal", trainable=False)),
            "official": ("CATT as the official code has it: cross layers of which the last is of use, dictionaries near zero", self._official()),
        }
        return {name: Arm(name, about, model) for name, (about, model) in found.items()}

    def _official(self) -> "Lxmert":
        return replace(self, catt="single", second="dictionary", share=False, compat=True, init="uniform", trainable=True)


def _unread(model: LxmertReader, region_dim: int) -> list[str]:
    """What the head leaves out, found by a copy without dictionaries that wait for their tokens, on one word and one region."""
    tried = copy.deepcopy(model).eval()
    for module in tried.modules():
        if isinstance(module, CrossSampleDictionary):
            module.fitted = True
    shape = (1, 1) if model.images == 1 else (1, model.images, 1)
    like = next(tried.parameters())
    words = torch.zeros(1, 2, dtype=torch.long, device=like.device)
    regions = {"visual_feats": like.new_zeros(*shape, region_dim), "visual_pos": like.new_zeros(*shape, model.lxmert.config.visual_pos_dim)}
    with torch.enable_grad():
        return unreached(tried, tried({"input_ids": words, "attention_mask": torch.ones_like(words), **regions}).sum())


def _read(base: str) -> Any:
    try:
        from transformers import LxmertModel
    except ImportError as error:
        raise missing_extra("transformers", "hf", "LXMERT") from error
    try:
        found: Any = LxmertModel.from_pretrained(base, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise InputError(f"no LXMERT could be read at {base}: {str(error).splitlines()[0]}; give its folder as --model.base") from None
    model, told = found
    # heads of pre-training are left over, and nothing of the network may be missing
    if missing := sorted(told["missing_keys"]):
        raise InputError(f"{base} lacks {missing[0]} and {len(missing) - 1} more weights of LXMERT; give a folder of a whole one as --model.base")
    return model
