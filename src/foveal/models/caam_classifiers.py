"""CaaM's networks as timm's classifiers: one answer at inference, three streams for training.

Paper      Wang et al., "Causal Attention for Unbiased Visual Recognition", ICCV 2021 (arXiv 2108.08782).
Official   Wangt-CN/CaaM
Formula    logits of the mean of all environments' heads on the causal stream; complement and mixture are read in training only
Differs    The token module of the transformer is T2T-ViT's with softmax; officially it is the performer, which is not among our attentions.
Note       Training goes through ``streams`` and ``head``: the loss is ``foveal.lab.tasks``' of environments.
Status     blocks equal to the official ones' (``foveal.models.caam``); the networks around them are rebuilt from the description

Shapes     B batch, C channels, (H, W) of a map, N tokens, K classes, E environments
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._errors import InputError, missing_extra
from .._fx import checking
from ._init import reset
from .caam import CausalBlock, CausalResNet, EnvironmentHeads, Streams
from .t2t import T2TViT

try:
    from timm.models._features import feature_take_indices
except ImportError as error:
    raise missing_extra("timm", "timm", "foveal.models") from error

__all__ = ["CausalResNetClassifier", "CausalT2TViT"]


class CausalResNetClassifier(nn.Module):
    """:class:`CausalResNet` with :class:`EnvironmentHeads`, and timm's methods. Features and intermediates are those of the causal stream.

    Args:
        num_classes: K; 0 for features.
        in_chans: channels of the images.
        num_environments: E, heads on the causal stream.
        drop_rate: dropout before the heads, in training.
        global_pool: ``"avg"``, the mean over places; ``""`` leaves the map as it is, where there are no heads.
        drop_path_rate: timm's name for stochastic depth, which this network has not; anything but 0 is refused.
        split_stage: see :class:`CausalResNet`: 2 for NICO, 3 for ImageNet-9.
        widths: channels of the stages.
        depths: blocks of the stages.
        stem: see :class:`CausalResNet`.
        reduction: see :class:`~foveal.ComplementaryCBAM`.

    Shape:
        ``(B, in_chans, H, W) -> (B, K)``.

    Raises:
        ValueError: what :class:`CausalResNet` and :class:`EnvironmentHeads` refuse; a pooling other than the mean; stochastic depth.

    Example:
        >>> model = CausalResNetClassifier(num_classes=10, widths=(16, 32), depths=(1, 1), split_stage=1)
        >>> model(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> model.streams(torch.randn(2, 3, 32, 32)).complement.shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        num_environments: int = 4,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        split_stage: int = 2,
        widths: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        stem: bool = True,
        reduction: int = 16,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        if drop_path_rate:
            raise InputError(f"CaaM's ResNet has no stochastic depth, got drop_path_rate={drop_path_rate}; leave it at 0")
        self.trunk = CausalResNet(split_stage=split_stage, in_chans=in_chans, widths=widths, depths=depths, stem=stem, reduction=reduction, **factory)
        self.num_features = self.head_hidden_size = self.trunk.num_features
        self.num_classes, self.in_chans, self.num_environments = num_classes, in_chans, num_environments
        names = [f"one_stream.{n}" for n in range(len(self.trunk.one_stream))] + [f"two_streams.{n}" for n in range(len(self.trunk.two_streams))]
        self.feature_info = [
            {"num_chs": width, "reduction": (4 if stem else 1) * 2**stage, "module": f"trunk.{names[end - 1]}"}
            for stage, (width, end) in enumerate(zip(widths, self.trunk.stage_ends, strict=True))
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.global_pool = _checked_pool(global_pool, num_classes)
        self.head = _heads(self.num_features, num_classes, num_environments, **factory)

    def init_weights(self) -> None:
        """Every weight as at construction; for a model that comes from the meta device."""
        reset(self)

    def streams(self, images: Tensor) -> Streams:
        """Features of the three streams, each ``(B, num_features)``; what training reads."""
        return self.trunk(images)

    def forward_features(self, x: Tensor) -> Tensor:
        """The causal stream's map, ``(B, num_features, h, w)``."""
        return _causal(self.trunk.stages(x)[-1])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of a map."""
        x = self.head_drop(x.mean((-2, -1)) if self.global_pool else x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Causal maps after some stages, with timm's arguments; ``norm`` changes nothing, there is none behind the stages.

        Raises:
            ValueError: another format than ``"NCHW"``.
        """
        if output_fmt != "NCHW":
            raise InputError(f'a ResNet gives maps, output_fmt="NCHW", got {output_fmt!r}')
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        causal = [_causal(stage) for stage in self.trunk.stages(x, last if stop_early else None)]
        taken = [causal[index] for index in range(len(causal)) if index in wanted]
        return taken if intermediates_only else (causal[-1], taken)

    def prune_intermediate_layers(self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True) -> list[int]:
        """Leave out what lies behind the last of the stages."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        end, below = self.trunk.stage_ends[last], len(self.trunk.one_stream)
        self.trunk.one_stream = self.trunk.one_stream[:end]
        self.trunk.two_streams = self.trunk.two_streams[: max(end - below, 0)]
        self.trunk.stage_ends = self.trunk.stage_ends[: last + 1]
        self.num_features = self.head_hidden_size = self.trunk.num_features = self.feature_info[last]["num_chs"]
        if prune_head or last + 1 < len(self.feature_info):
            self.reset_classifier(0)
        self.feature_info = self.feature_info[: last + 1]
        return wanted

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Fresh heads for other classes; 0 for none."""
        self.global_pool = _checked_pool(self.global_pool if global_pool is None else global_pool, num_classes)
        self.num_classes = num_classes
        weight = self.trunk.stem[0].weight
        self.head = _heads(self.num_features, num_classes, self.num_environments, device=weight.device, dtype=weight.dtype).train(self.training)

    @property
    def grad_checkpointing(self) -> bool:
        return self.trunk.grad_checkpointing

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.trunk.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        # three beginnings, in the order of depth
        return {"stem": r"^trunk\.stem", "one": r"^trunk\.one_stream\.(\d+)", "two": r"^trunk\.two_streams\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        return set()


class CausalT2TViT(T2TViT):
    """T2T-ViT whose last blocks have a causal and a complementary stream. Features, intermediates and logits are those of the causal stream.

    Blocks below the last hand on the mixture, as in the paper; the last hands on the causal stream, which the heads read.

    Args:
        causal_depth: blocks with two streams, at the top; 4 in the authors' networks.
        num_environments: E, heads on the causal stream.
        complement_norm: see :class:`CausalBlock`; as for ImageNet-9. For NICO there is none.
        num_classes: K; 0 for features.
        t2t: the options of :class:`T2TViT`, which are of the blocks below and of the token module.

    Shape:
        ``(B, in_chans, H, W) -> (B, K)``.

    Raises:
        ValueError: fewer blocks than ``causal_depth``, or none of them causal; what :class:`T2TViT` refuses.

    Example:
        >>> model = CausalT2TViT(causal_depth=1, img_size=32, embed_dim=24, depth=2, num_heads=2, token_dim=16, num_classes=10)
        >>> [stream.shape for stream in model.streams(torch.randn(2, 3, 32, 32))]
        [torch.Size([2, 24]), torch.Size([2, 24]), torch.Size([2, 24])]
    """

    def __init__(self, *, causal_depth: int = 4, num_environments: int = 4, complement_norm: bool = False, num_classes: int = 1000, **t2t: Any) -> None:
        super().__init__(num_classes=0, **t2t)
        depth = len(self.blocks)
        if not 1 <= causal_depth <= depth:
            raise InputError(f"causal_depth must be 1 to the depth of {depth}, got {causal_depth}")
        factory = {"device": self.patch_embed.project.weight.device, "dtype": self.patch_embed.project.weight.dtype}
        below: Any = self.blocks[0]
        ratio = below.mlp.fc1.out_features / self.embed_dim
        for index in range(depth - causal_depth, depth):
            hands_on: Literal["mixture", "causal"] = "mixture" if index < depth - 1 else "causal"
            options: dict[str, Any] = {"qkv_bias": t2t.get("qkv_bias", False), "complement_norm": complement_norm, **factory}
            self.blocks[index] = _InChain(self.embed_dim, t2t.get("num_heads", 6), ratio, hands_on=hands_on, **options)
        self.num_classes, self.num_environments = num_classes, num_environments
        self.head = _heads(self.embed_dim, num_classes, num_environments, **factory)  # type: ignore[assignment]
        self.init_weights(needs_reset=False)

    @torch.no_grad()
    def init_weights(self, *args: Any, **kwargs: Any) -> None:
        """T2T-ViT's, and Kaiming's of the heads."""
        super().init_weights(*args, **kwargs)
        if isinstance(self.head, EnvironmentHeads):
            self.head.reset_parameters()

    def streams(self, images: Tensor) -> Streams:
        """Features of the three streams, each ``(B, num_features)``; what training reads. All go through one last norm."""
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(images))))
        for block in self.blocks[:-1]:
            x = block(x)
        last: Any = self.blocks[-1]
        streams = last.streams(x)
        return Streams(*(self.forward_head(self.norm(stream), pre_logits=True) for stream in streams))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Fresh heads for other classes; 0 for none."""
        super().reset_classifier(0, global_pool)
        self.num_classes = num_classes
        weight = self.norm.weight if isinstance(self.norm, nn.LayerNorm) else self.patch_embed.project.weight
        head = _heads(self.embed_dim, num_classes, self.num_environments, device=weight.device, dtype=weight.dtype)
        self.head = head.train(self.training)  # type: ignore[assignment]


class _InChain(CausalBlock):
    """A causal block where ordinary ones could stand: one sequence goes on."""

    def __init__(self, *args: Any, hands_on: Literal["mixture", "causal"], **options: Any) -> None:
        super().__init__(*args, **options)
        self.hands_on = hands_on

    def streams(self, x: Tensor) -> Streams:
        return super().forward(x)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:  # type: ignore[override]
        _refuse_masks(attn_mask, is_causal)
        streams = self.streams(x)
        return streams.causal if self.hands_on == "causal" else streams.mixture


@checking
def _refuse_masks(attn_mask: Tensor | None, is_causal: bool) -> None:
    if attn_mask is not None or is_causal:
        raise InputError("CaaM's networks take neither attn_mask nor is_causal; leave them out")


def _checked_pool(global_pool: str, num_classes: int) -> str:
    if global_pool not in ("avg", "") or (global_pool == "" and num_classes > 0):
        raise InputError(
            f'CaaM\'s heads read the mean over places, global_pool="avg", and maps are had with global_pool="" and num_classes=0; '
            f"got {global_pool!r} with num_classes={num_classes}"
        )
    return global_pool


def _heads(dim: int, num_classes: int, num_environments: int, **factory: Any) -> nn.Module:
    return EnvironmentHeads(dim, num_classes, num_environments, **factory) if num_classes > 0 else nn.Identity()


def _causal(stage: Tensor | Streams) -> Tensor:
    return stage.causal if isinstance(stage, Streams) else stage
