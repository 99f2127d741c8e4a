"""Images drawn by diffusion. It needs the extra ``diffusers``, whose schedulers add the noise and take it away.

dit_digits     foveal train dit-digits
               six minutes of a CPU core; real digits of 14×14 pixels, by class. --data.half False draws them at 28×28 for four times the work a step
color_match    foveal train color-match
               one CPU core, minutes; strips with two squares of one color. Without a meeting of patches the squares' colors are independent
dit_emoji      foveal data fetch emoji-google; foveal train dit-emoji
               emoji of 32×32 pixels, by category; for a GPU. We have run it in miniature alone
unet_cifar10   foveal train unet-cifar10 --data.root cifar-10-batches-py
               the published training of the UNet; for a GPU, and we have not run it. :func:`ddpm` is the same for other images
"""

from pathlib import Path

from ...models import DiT, UNet
from ..data import CIFAR10Files, ColorMatch, Data, DigitImages, Emoji
from ..tasks import Diffusion
from ..training import Optim, Recipe
from ._registry import recipe

__all__ = ["color_match", "ddpm", "dit_digits", "dit_emoji", "unet_cifar10"]


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
        task=Diffusion(prediction_type="v_prediction"),
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


@recipe
def unet_cifar10(root: Path = Path("data/cifar-10-batches-py")) -> Recipe:
    """CIFAR-10: the UNet of denoising diffusion, with attention at 16×16."""
    return ddpm(CIFAR10Files(root=root))


def ddpm(data: Data) -> Recipe:
    """The UNet for CIFAR-10 as Ho et al. trained it (arXiv 2006.11239, App. B), with the cosine schedule of noise and with classes where the data have them.

    They report an FID of 3.17 and an Inception score of 9.46 without classes and with the linear schedule; we have not run it.
    """
    optim = Optim(
        optimizer="adam",
        lr=2e-4,
        weight_decay=0.0,
        warmup=5_000 / 800_000,
        schedule="constant",
        ema=0.9999,
    )
    return Recipe(data=data, model=UNet(), task=Diffusion(), optim=optim, batch_size=128, steps=800_000, eval_every=5000, checkpoint_every=5000, workers=4)
