"""VideoLLaMA 3 of transformers with probes and adapters, as a recipe has it."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from ..._errors import InputError, missing_extra
from ..._ranges import Range
from ...attention import config_from_dict
from .._config import Arm, ModelConfig, register_model
from ..probes import ProbeForm, VisualProbes
from .attached import attach_probes_, attached_probes

__all__ = ["VideoLlama"]

_ADAPTED = r".*language_model\.layers\..*\.(q|k|v|o|gate|up|down)_proj"
_TINY_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 4}
_TINY_TEXT = {"model_type": "qwen2", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


@register_model
@dataclass(frozen=True, kw_only=True)
class VideoLlama(ModelConfig):
    """A frozen VideoLLaMA 3, whose language model is adapted by LoRA, with probes that read its tower. What is trained: adapters, both projectors, probes."""

    targets: ClassVar[str] = "conversations"
    about: ClassVar[str] = "VideoLLaMA 3 with probes"
    baseline: ClassVar[str] = "none"
    default_arms: ClassVar[tuple[str, ...]] = ("none", "softmax", "softmax-wide", "denoising")
    rivals: ClassVar[dict[str, str]] = {"denoising": "softmax-wide"}
    ranges: ClassVar[Mapping[str, Range]] = {"num_probes": Range(at_least=0), "lora_rank": Range(at_least=1), "lora_alpha": Range(above=0)}

    base: str | None = None
    """A folder, or a name on the Hugging Face hub, with ``VideoLlama3ForConditionalGeneration``; None makes a tiny one with random weights."""
    attention: str = "denoising"
    """By which probes read."""
    options: dict[str, Any] | None = None
    """Options of the attention."""
    num_probes: int = 16
    """Probes of a video; 0 for none. The data put as many words into prompts."""
    form: ProbeForm = "residual"
    """``residual``, ours, or ``published``."""
    train_probes: bool = True
    """Train the probes themselves; the published optimizer has no group for them, and leaves them as they were drawn."""
    alpha: float = 1e-4
    """Size of the negative branch of denoising probes at the start, relative to the tower's attention."""
    lora_rank: int = 64
    """Of the adapters."""
    lora_alpha: int = 16
    """Their scale is this over the rank."""
    dropout: float = 0.05
    """In front of the adapters."""
    gradient_checkpointing: bool = False
    """Compute activations of the language model again in the backward pass, to save memory."""

    def build(self, *, words: Mapping[str, int], probe_token: int) -> nn.Module:  # type: ignore[override]
        """The network.

        Args:
            words: of the vocabulary its ``size``, and the words ``pad``, ``end``, ``image`` and ``video``.
            probe_token: the word that stands for a probe.

        Raises:
            ValueError: no such model at ``base``; another vocabulary than the data's; probes that do not fit.
        """
        host = _tiny(words) if self.base is None else _read(self.base)
        known = host.config
        if known.video_token_id != words["video"] or known.image_token_id != words["image"]:
            raise InputError(
                f"the model has {known.video_token_id} and {known.image_token_id} for videos and images, and the data {words['video']} and {words['image']}; "
                "give both the same base"
            )
        if self.num_probes:
            vision = host.model.vision_model
            layers, eps = vision.encoder.layers, known.vision_config.layer_norm_eps
            config = config_from_dict({"attention": self.attention, **(self.options or {})})
            dim, heads, depth = known.vision_config.hidden_size, known.vision_config.num_attention_heads, len(layers)
            probes = VisualProbes(dim, heads, range(depth), self.num_probes, config, self.form, norm_eps=eps, depth=depth)
            norms = [layer.layer_norm1 for layer in layers] if probes.norm else None
            alpha = {"alpha": self.alpha} if self.attention == "denoising" else {}
            probes.start_from([layer.self_attn for layer in layers], norms=norms, **alpha)
            attach_probes_(host, probes, probe_token)
        return self._adapted(host)

    def _adapted(self, host: Any) -> nn.Module:
        """With adapters, and what is trained beside them."""
        try:
            import peft
        except ImportError as error:
            raise missing_extra("peft", "peft", "adapters of a video language model") from error
        if self.gradient_checkpointing:
            # it would keep what is computed again
            host.config.text_config.use_cache = False
            # its name in later versions of transformers
            getattr(host, "activation_checkpointing_enable", host.gradient_checkpointing_enable)()
            # the embeddings are frozen, and what is computed again needs something to lead to
            host.enable_input_require_grads()
        config = peft.LoraConfig(r=self.lora_rank, lora_alpha=self.lora_alpha, lora_dropout=self.dropout, target_modules=_ADAPTED)
        with warnings.catch_warnings():
            # peft asks by a name that transformers is about to drop
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            model: Any = peft.get_peft_model(host, config)
        host.model.projector.requires_grad_(True)
        if self.num_probes:
            attached = attached_probes(model).requires_grad_(True)
            attached.probes.probes.requires_grad_(self.train_probes)
        return model

    def smoke_model(self) -> "VideoLlama":
        return replace(self, base=None)

    def arms(self) -> dict[str, Arm]:
        probed = replace(self, num_probes=self.num_probes or 16)
        found = {"none": Arm("none", "no probes: the same training of adapters and projector", replace(self, num_probes=0))}
        for name, attention, options, about in (
            ("softmax", "softmax", None, "probes by softmax attention (VisCoP)"),
            ("softmax-wide", "softmax", {"attn_head_dim": 108 if self.base else 12}, "softmax with heads half as wide again: as many weights as denoising"),
            ("denoising", "denoising", None, "probes by denoising attention (DnA)"),
        ):
            found[name] = Arm(name, about, replace(probed, attention=attention, options=options))
        return found


def _tiny(words: Mapping[str, int]) -> Any:
    try:
        from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration
    except ImportError as error:
        raise missing_extra("transformers", "hf", "VideoLLaMA 3") from error
    text = _TINY_TEXT | {"vocab_size": words["size"], "pad_token_id": words["pad"], "eos_token_id": words["end"], "bos_token_id": None}
    config = VideoLlama3Config(text_config=text, vision_config=_TINY_VISION, image_token_id=words["image"], video_token_id=words["video"])
    return VideoLlama3ForConditionalGeneration(config)


def _read(base: str) -> Any:
    try:
        from transformers import VideoLlama3ForConditionalGeneration
    except ImportError as error:
        raise missing_extra("transformers", "hf", "VideoLLaMA 3") from error
    try:
        return VideoLlama3ForConditionalGeneration.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise InputError(f"no VideoLLaMA 3 could be read at {base}: {str(error).splitlines()[0]}; give its folder as --model.base") from None
