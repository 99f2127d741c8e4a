"""The grid of a vision transformer's patches, and its class token, registers and positions brought to another's grid and way of placing them."""

import torch
from torch import Tensor

from .._errors import InputError, missing_extra
from .vit import VisionTransformer, pair, patch_grid

try:
    from timm.layers import resample_abs_pos_embed
except ImportError as error:
    raise missing_extra("timm", "timm", "foveal.models") from error

__all__ = ["pair", "patch_grid", "take_positions"]


def take_positions(model: VisionTransformer, source: dict[str, Tensor], grid: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """Take class token, registers and positions out of ``source``, and give them as ``model`` has them.

    A table of the patches alone and one that begins with the prefix tokens' rows become one another exactly: what is added to a prefix token is part of it.

    Args:
        model: says grid, prefix tokens, and whether these have positions.
        source: a state dict in timm's names, changed in place.
        grid: rows and columns of the checkpoint's patches, where they are neither the model's nor a square.

    Raises:
        ValueError: other prefix tokens than the model's; positions of another width or of a grid that is not known.
    """
    tokens: dict[str, Tensor] = {key: source.pop(key) for key in ("cls_token", "reg_token") if key in source}
    own = {key for key in ("cls_token", "reg_token") if getattr(model, key) is not None}
    if own != tokens.keys():
        has, wanted = (", ".join(sorted(names)) or "no prefix token" for names in (tokens, own))
        raise InputError(f"the checkpoint has {has}, the model {wanted}; build it with the class_token and reg_tokens of the checkpoint")
    if "pos_embed" not in source:
        return tokens
    positions = source.pop("pos_embed")
    if positions.ndim != 3 or positions.shape[-1] != model.embed_dim:
        raise InputError(f"the checkpoint has pos_embed {tuple(positions.shape)}, wanted (1, tokens, {model.embed_dim}); build the model with its embed_dim")
    rows, prefix = positions.shape[1], sum(value.shape[1] for value in tokens.values())
    side = model.patch_embed.grid_size
    squares = [(root, root) for with_prefix in (prefix, 0) if (root := round(max(rows - with_prefix, 0) ** 0.5)) ** 2 == rows - with_prefix > 0]
    # a table of the patches alone must not be read as one that begins with the class token, nor a square as a row of patches
    fits = {
        (size, with_prefix): f"{size[0]}×{size[1]} patches and {with_prefix} prefix tokens"
        for size in ([side, *squares] if grid is None else [grid])
        for with_prefix in (prefix, 0)
        if size[0] * size[1] + with_prefix == rows
    }
    if len(fits) != 1:
        read = f"which may be {' or '.join(fits.values())}" if fits else "which is neither the model's grid of patches nor a square one"
        if grid is not None:
            read = f"which is not {grid[0]}×{grid[1]} patches with or without {prefix} prefix tokens"
        raise InputError(f"the checkpoint's pos_embed has {rows} rows, {read}; give grid=(rows, columns) of its patches")
    ((size, with_prefix),) = fits
    positions = resample_abs_pos_embed(positions, new_size=list(side), old_size=list(size), num_prefix_tokens=with_prefix)

    own_prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    if with_prefix and not own_prefix:
        # the sum of a prefix token and its position is all that the blocks ever see
        places, positions = positions.split([with_prefix, positions.shape[1] - with_prefix], dim=1)
        for key in tokens:
            own, places = places.split([tokens[key].shape[1], places.shape[1] - tokens[key].shape[1]], dim=1)
            tokens[key] = tokens[key] + own
    elif own_prefix and not with_prefix:
        positions = torch.cat([positions.new_zeros(1, own_prefix, positions.shape[-1]), positions], dim=1)
    return tokens | {"pos_embed": positions}
