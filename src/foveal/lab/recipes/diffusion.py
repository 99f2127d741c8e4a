"""Images drawn by diffusion transformers. They need the extra ``diffusers``, whose schedulers add the noise and take it away.

dit_digits     foveal train dit-digits
               an hour or more of a CPU core; real digits of 32×32 pixels, by class. We have run 1,200 of its steps, after which the pictures are no digits yet:
               docs/generation.md
color_match    foveal train color-match
               one CPU core, minutes; strips with two squares of one color. Without a meeting of patches the squares' colors are independent
"""

from ...models import DiT
from ..data import ColorMatch, DigitImages, Emoji
from ..tasks import Diffusion
from ..training import Optim, Recipe
from ._registry import recipe

__all__ = ["color_match", "dit_digits", "dit_emoji"]


@recipe
def dit_digits() -> Recipe:
    """Draw handwritten digits by class, with a small diffusion transformer."""
    return Recipe(
        data=DigitImages(half=True),
        model=DiT(),
        task=Diffusion(prediction_type="v_prediction", metric="digits"),
        optim=Optim(lr=2e-3, weight_decay=0.0, ema=0.998),
        batch_size=32,
        steps=6000,
        eval_every=1000,
        checkpoint_every=1000,
    )


@recipe
def color_match() -> Recipe:
    """Draw two squares of one color, far apart: each must know of the other."""
    return Recipe(
        data=ColorMatch(),
        model=DiT(width=48, depth=3, num_heads=6, patch_size=2),
        task=Diffusion(),
        optim=Optim(lr=2e-3, weight_decay=0.0, ema=0.99),
        batch_size=64,
        steps=1500,
        eval_every=300,
        checkpoint_every=500,
    )


@recipe
def dit_emoji() -> Recipe:
    """Draw emoji by category, with a small diffusion transformer."""
    return Recipe(
        data=Emoji(),
        model=DiT(width=192, depth=6),
        task=Diffusion(prediction_type="v_prediction"),
        optim=Optim(lr=1e-3, weight_decay=0.0, ema=0.999),
        batch_size=64,
        steps=20_000,
        eval_every=1000,
        checkpoint_every=1000,
    )
