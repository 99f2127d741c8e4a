"""TimeSformer: a vision transformer on video, with any token attention in space and in time.

Paper      Bertasius, Wang, Torresani, "Is Space-Time Attention All You Need for Video Understanding?", ICML 2021 (arXiv 2102.05095), Sec. 3.
           With denoising attention in both places: Campos et al., "DnA", ECCV 2026 (arXiv 2606.27372).
Official   facebookresearch/TimeSformer; rjccv/DnA ``timesformer/``
Formula    divided   X ← X + W · A_t(LN X), over the frames of each patch;  X ← X + A_s(LN X), over the patches of each frame;  X ← X + MLP(LN X)
           joint     a vision transformer on the patches of all frames at once
           space     a vision transformer on each frame; tokens are averaged over frames before the last norm
           In ``divided`` prefix tokens (the class token) take no part in time. In space each frame sees them, and they become the mean of what they get there.
Differs    Stochastic depth drops a branch of a whole video, with W behind time; officially W stands outside and keeps its bias. Positions of other numbers of
           frames are interpolated linearly, of other image sizes bicubically; the official loader stretches them by nearest neighbor. The first matters
           in training only, the second at other sizes than the model was built for.
Status     outputs and input gradients equal to the official model's, for the three types

Shapes     B videos, T frames, N patches of a frame, P prefix tokens, C channels
"""

from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .._errors import InputError, missing_extra, unknown
from .._fx import Leaf, leaf
from ..attention import AttentionConfig, DifferentialAttention, config_from_dict
from ..attention._grid import set_grid, without_grid
from ..attention._linear import project
from ._patches import pair, patch_grid
from .vit import VisionTransformer

try:
    from timm.layers import LayerNorm
    from timm.models.vision_transformer import Block
except ImportError as error:
    raise missing_extra("timm", "timm", "foveal.models") from error

__all__ = ["AttentionType", "DividedBlock", "TimeSformer"]

AttentionType = Literal["divided_space_time", "joint_space_time", "space_only"]
"""Over which tokens of a video attention goes, in the official names."""

# timm's options that have no meaning here, or are ours to set
_TAKEN = ("attn_layer", "block_fn", "embed_layer", "patch_drop_rate", "dynamic_img_pad", "pos_embed")


class DividedBlock(Leaf, Block):
    """timm's block with an attention over time in front of the one over space.

    The projection ``temporal_fc`` starts at zero: a block begins as the image model's, and its ``temporal_attn`` learns once ``temporal_fc`` has moved.

    Args:
        dim: width C of the tokens.
        num_heads: heads, in time and in space.
        num_prefix_tokens: P, tokens in front that belong to no frame.
        time_attention: what mixes the frames of a patch.
        block: the options of timm's ``Block``.
    """

    def __init__(self, dim: int, num_heads: int, *, num_prefix_tokens: int, time_attention: AttentionConfig, **block: Any) -> None:
        super().__init__(dim, num_heads, **block)
        factory: dict[str, Any] = {"device": block.get("device"), "dtype": block.get("dtype")}
        norm_layer = block.get("norm_layer", LayerNorm)
        self.num_prefix_tokens = num_prefix_tokens
        self.temporal_norm1 = norm_layer(dim, **factory)
        self.temporal_attn = time_attention.build(
            dim,
            num_heads=num_heads,
            qkv_bias=block.get("qkv_bias", False),
            qk_norm=block.get("qk_norm", False),
            scale_norm=block.get("scale_attn_norm", False),
            proj_bias=block.get("proj_bias", True),
            attn_drop=block.get("attn_drop", 0.0),
            proj_drop=block.get("proj_drop", 0.0),
            norm_layer=norm_layer,
            **factory,
        )
        self.temporal_fc = nn.Linear(dim, dim, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The projection behind time to zero; all else keeps what it, or the host, set."""
        nn.init.zeros_(self.temporal_fc.weight)
        nn.init.zeros_(self.temporal_fc.bias)

    def init_weights(self) -> None:
        """What timm calls after it has initialized the linear maps inside."""
        self.reset_parameters()

    def forward(self, x: Tensor, num_frames: int) -> Tensor:  # type: ignore[override]
        """``(B, P + T·N, C) -> (B, P + T·N, C)``, frame after frame, with T = ``num_frames``."""
        prefix = x[:, : self.num_prefix_tokens]
        patches = x[:, self.num_prefix_tokens :].unflatten(1, (num_frames, -1))

        over_time = self.temporal_norm1(rearrange(patches, "b t n c -> (b n) t c"))
        moved = project(self.temporal_fc, self.temporal_attn(over_time))
        patches = patches + self.drop_path1(rearrange(moved, "(b n) t c -> b t n c", n=patches.shape[2]))

        frames = torch.cat([prefix.unsqueeze(1).expand(-1, num_frames, -1, -1), patches], dim=2)
        seen = self.ls1(self.attn(self.norm1(frames.flatten(0, 1)))).unflatten(0, (-1, num_frames))
        seen = torch.cat([seen[:, :, : self.num_prefix_tokens].mean(1), seen[:, :, self.num_prefix_tokens :].flatten(1, 2)], dim=1)
        x = torch.cat([prefix, patches.flatten(1, 2)], dim=1) + self.drop_path1(seen)
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class TimeSformer(VisionTransformer):
    """A vision transformer on video. Names and methods are timm's; what it adds is ``time_embed`` and, in each block, ``temporal_norm1/attn/fc``.

    Args:
        attention: name of the attention in space (in ``joint_space_time``: over all patches of all frames).
        options: its options, as in its ``Config``.
        time_attention: name of the attention over time in ``divided_space_time``; that of space if None.
        time_options: its options; those of space if neither is given.
        attention_type: ``"divided_space_time"``, ``"joint_space_time"`` or ``"space_only"``, see the top of this file.
        num_frames: frames that positions in time are learned for. Videos may have any number; positions are interpolated.
        qkv_bias: bias of the projections in.
        vit: the options of timm's ``VisionTransformer``: ``img_size``, ``patch_size``, ``embed_dim``, ``depth``, ``num_heads``, ``num_classes``,
            ``drop_path_rate``, ``dynamic_img_size`` (images of any size that patches tile), ``global_pool``, ``reg_tokens`` … ViT-B/16 if left out.

    Shape:
        ``(B, in_chans, T, H, W) -> (B, num_classes)``. ``forward_features`` gives ``(B, P + T·N, C)``, frame after frame; in ``space_only``
        ``(B, P + N, C)``.

    Raises:
        ValueError: an unknown attention, option or attention type; an attention over a grid where there is none; an option of timm's that has no meaning
            here. In ``forward``: input of another shape, dtype or size, or that patches do not tile.

    Example:
        >>> model = TimeSformer(attention="denoising", num_frames=4, img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=4, num_classes=7)
        >>> model(torch.randn(2, 3, 4, 32, 32)).shape
        torch.Size([2, 7])
    """

    def __init__(
        self,
        *,
        attention: str = "softmax",
        options: dict[str, Any] | None = None,
        time_attention: str | None = None,
        time_options: dict[str, Any] | None = None,
        attention_type: AttentionType = "divided_space_time",
        num_frames: int = 8,
        qkv_bias: bool = True,
        **vit: Any,
    ) -> None:
        if attention_type not in get_args(AttentionType):
            raise unknown("attention type of a TimeSformer", attention_type, get_args(AttentionType))
        divided = attention_type == "divided_space_time"
        if not divided and (time_attention is not None or time_options is not None):
            raise InputError(f"time_attention and time_options are for divided_space_time, got them with {attention_type}; leave them out")
        if num_frames < 1:
            raise InputError(f"num_frames must be at least 1, got {num_frames}")
        for option in _TAKEN:
            if option in vit:
                raise InputError(f"{option} cannot be chosen in a TimeSformer; its attention is named by attention and time_attention")
        prefix = int(vit.get("class_token", True)) + int(vit.get("reg_tokens", 0))
        config = config_from_dict({"attention": attention, **(options or {})})
        if attention_type == "joint_space_time":
            config = without_grid(config, "over the patches of several frames")
        else:
            config = set_grid(config, prefix, None if vit.get("dynamic_img_size") else patch_grid(vit))
        if divided:
            same = time_attention is None and time_options is None
            time_config = config_from_dict({"attention": time_attention or attention, **((options if same else time_options) or {})})
            vit["block_fn"] = partial(DividedBlock, num_prefix_tokens=prefix, time_attention=without_grid(time_config, "over time"))
        super().__init__(qkv_bias=qkv_bias, attn_layer=config.layer(), **vit)

        self.attention_type, self.num_frames = attention_type, num_frames
        place = {"device": self.patch_embed.proj.weight.device, "dtype": self.patch_embed.proj.weight.dtype}
        self.time_embed = None if attention_type == "space_only" else nn.Parameter(torch.zeros(1, num_frames, self.embed_dim, **place))
        self.time_drop = nn.Dropout(vit.get("pos_drop_rate", 0.0))
        for depth, block in enumerate(self.blocks):
            if divided and isinstance(block.temporal_attn, DifferentialAttention):
                block.temporal_attn.set_lambda_init(depth)

    def init_weights(self, *args: Any, **kwargs: Any) -> None:
        """timm's, and positions in time and ``temporal_fc`` to zero."""
        super().init_weights(*args, **kwargs)
        # timm calls this while it constructs, when there are no positions in time yet
        positions = getattr(self, "time_embed", None)
        if positions is not None:
            nn.init.zeros_(positions)

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | ({"time_embed"} if self.time_embed is not None else set())

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        groups = super().group_matcher(coarse)
        return groups | {"stem": groups["stem"] + "|time_embed"}

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | tuple[int, int] | None = None, num_frames: int | None = None
    ) -> None:
        """Resample positions, in space and in time, for good."""
        if num_frames is not None and num_frames < 1:
            raise InputError(f"num_frames must be at least 1, got {num_frames}")
        super().set_input_size(img_size=pair(img_size), patch_size=pair(patch_size))
        if num_frames is not None:
            if self.time_embed is not None:
                self.time_embed = nn.Parameter(self._time_embed(num_frames).detach().clone(), requires_grad=self.time_embed.requires_grad)
            self.num_frames = num_frames

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Logits of videos, ``(B, in_chans, T, H, W) -> (B, num_classes)``; masks, which timm's images may have, are refused."""
        return self.forward_head(self.forward_features(x, attn_mask, is_causal))

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Normalized tokens, see the shapes of the class."""
        num_frames = self._check(x, attn_mask, is_causal)
        x = self._embed(x)
        for block in self.blocks:
            x = self._through(block, x, num_frames)
        return self.norm(self._over_frames(x, num_frames))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCTHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Any:
        """Features after some blocks.

        Args:
            x: videos.
            indices: the last n blocks if int, all if None, else these.
            return_prefix_tokens: give pairs of features and prefix tokens.
            norm: apply the last norm to each.
            stop_early: leave out blocks behind the last that is asked for.
            output_fmt: ``"NCTHW"``, or timm's ``"NCHW"``, for maps ``(B, C, T, h, w)``, ``"NLC"`` for tokens ``(B, T·N, C)``.
            intermediates_only: give the list alone, not ``(features, list)``.
            output_dict: not offered; here, as the last two, to be refused.
            attn_mask: see :meth:`forward`.
            is_causal: see :meth:`forward`.
        """
        # timm's feature extraction knows no name for maps of video, and asks for maps by this one
        output_fmt = "NCTHW" if output_fmt == "NCHW" else output_fmt
        if output_fmt not in ("NCTHW", "NLC"):
            raise unknown("output_fmt of a TimeSformer", output_fmt, ("NCTHW", "NLC"))
        if output_dict:
            raise InputError("TimeSformer gives intermediates as a list, not as a dict; leave output_dict out")
        num_frames = self._check(x, attn_mask, is_causal)
        rows, _ = self.patch_embed.dynamic_feat_size(x.shape[-2:])
        wanted = self._indices(indices)
        x = self._embed(x)
        taken = []
        for index, block in enumerate(self.blocks[: max(wanted) + 1] if stop_early else self.blocks):
            x = self._through(block, x, num_frames)
            if index in wanted:
                taken.append(self._split(self.norm(x) if norm else x, num_frames))
        if output_fmt == "NCTHW":
            taken = [(rearrange(patches, "b (t y x) c -> b c t y x", t=num_frames, y=rows), prefix) for patches, prefix in taken]
        out = taken if return_prefix_tokens and self.num_prefix_tokens else [patches for patches, _ in taken]
        return out if intermediates_only else (self.norm(self._over_frames(x, num_frames)), out)

    def _check(self, x: Tensor, attn_mask: Tensor | None, is_causal: bool) -> int:
        """The number of frames of a video that can be used."""
        size = None if self.dynamic_img_size else self.patch_embed.img_size
        return _frames(x, attn_mask, is_causal, self.in_chans, size, self.patch_embed.patch_size)

    def _embed(self, x: Tensor) -> Tensor:
        """What the blocks take: ``(B, P + T·N, C)``; in ``space_only`` ``(B·T, P + N, C)``."""
        num_frames, prefix = x.shape[2], self.num_prefix_tokens
        x = self._pos_embed(self.patch_embed(x.transpose(1, 2).flatten(0, 1)))
        if self.time_embed is not None:
            x = x.unflatten(0, (-1, num_frames))
            patches = self.time_drop(x[:, :, prefix:] + self._time_embed(num_frames).unsqueeze(2))
            x = torch.cat([x[:, 0, :prefix], patches.flatten(1, 2)], dim=1)
        return self.norm_pre(x)

    def _time_embed(self, num_frames: int) -> Tensor:
        assert self.time_embed is not None, "space_only has no positions in time"
        return _in_time(self.time_embed, num_frames)

    def _through(self, block: nn.Module, x: Tensor, num_frames: int) -> Tensor:
        inputs = (x, num_frames) if self.attention_type == "divided_space_time" else (x,)
        return checkpoint(block, *inputs, use_reentrant=False) if self.grad_checkpointing else block(*inputs)

    def _indices(self, indices: int | list[int] | None) -> set[int]:
        depth = len(self.blocks)
        asked = range(-depth, 0) if indices is None else range(-indices, 0) if isinstance(indices, int) else indices
        if not asked or not all(-depth <= index < depth for index in asked):
            raise InputError(f"indices must be a number of last blocks, 1 to {depth}, or a list of blocks, {-depth} to {depth - 1}; got {indices}")
        return {index % depth for index in asked}

    def _over_frames(self, x: Tensor, num_frames: int) -> Tensor:
        return x.unflatten(0, (-1, num_frames)).mean(1) if self.attention_type == "space_only" else x

    def _split(self, x: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
        """Patches, ``(B, T·N, C)``, and prefix tokens, ``(B, P, C)``."""
        if self.attention_type == "space_only":
            x = x.unflatten(0, (-1, num_frames))
            return x[:, :, self.num_prefix_tokens :].flatten(1, 2), x[:, :, : self.num_prefix_tokens].mean(1)
        return x[:, self.num_prefix_tokens :], x[:, : self.num_prefix_tokens]


@leaf
def _frames(x: Tensor, attn_mask: Tensor | None, is_causal: bool, channels: int, size: tuple[int, int] | None, patch_size: tuple[int, int]) -> int:
    """How many a video has that can be used; ``size`` is None where patches may be any number."""
    if attn_mask is not None or is_causal:
        raise InputError("TimeSformer takes neither attn_mask nor is_causal: its tokens meet in time and in space by turns; leave them out")
    expected = f"TimeSformer expects (B, C, T, H, W) with C={channels} and T at least 1 in floating point"
    if x.ndim != 5 or x.shape[1] != channels or x.shape[2] < 1 or not x.is_floating_point():
        hint = "; move the channels in front of the frames: x.transpose(1, 2)" if x.ndim == 5 and x.shape[2] == channels else ""
        raise InputError(f"{expected}, got {tuple(x.shape)} of {x.dtype}{hint}")
    given, (patch_height, patch_width) = (x.shape[3], x.shape[4]), patch_size
    if size is None:
        if given[0] % patch_height or given[1] % patch_width or min(given) < 1:
            raise InputError(f"patches of {patch_height}×{patch_width} do not tile frames of {given[0]}×{given[1]}; crop or resize the frames")
    elif given != size:
        remedy = "resize them, call set_input_size, or build with dynamic_img_size=True"
        raise InputError(f"this TimeSformer is for frames of {size[0]}×{size[1]}, got {given[0]}×{given[1]}; {remedy}")
    return x.shape[2]


@leaf
def _in_time(positions: Tensor, num_frames: int) -> Tensor:
    """Positions ``(1, T, C)`` for another number of frames."""
    return positions if num_frames == positions.shape[1] else F.interpolate(positions.transpose(-2, -1), size=num_frames, mode="linear").transpose(-2, -1)
