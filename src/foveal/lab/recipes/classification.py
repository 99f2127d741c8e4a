"""Image classification on what a laptop has.

cluttered_digits   foveal train cluttered-digits
                   two CPU cores, about a minute; about 84 % on held-out scenes (chance 10 %)
cluttered_digits_mean  foveal compare
                   the same read off the mean of tokens; what a comparison trains where nothing else is asked for
digits             foveal train digits
                   two CPU cores, about a minute; single MNIST digits
image_folder       foveal train image-folder --data.root DIR
                   any folder of images; on a GPU raise --model.size, --data.img-size and --batch-size
"""

from pathlib import Path

from ...models import ViT
from ..data import ClutteredDigits, Digits, ImageFolder
from ..tasks import Classification
from ..training import Optim, Recipe
from ._registry import recipe

__all__ = ["cluttered_digits", "cluttered_digits_mean", "digits", "image_folder"]


@recipe
def cluttered_digits() -> Recipe:
    """One bright digit among dimmer ones: attend to what belongs."""
    return Recipe(data=ClutteredDigits(), model=ViT(attention="denoising"), optim=Optim(lr=4e-3))


@recipe
def cluttered_digits_mean() -> Recipe:
    """Cluttered digits, read off the mean of tokens: what a comparison trains by default."""
    # a class token favors what compares tokens pair by pair: it begins alike in every image; the rate served every attention better than twice of it
    return Recipe(data=ClutteredDigits(), model=ViT(attention="softmax", global_pool="avg"), optim=Optim(lr=2e-3), eval_every=100, checkpoint_every=250)


@recipe
def digits() -> Recipe:
    """Single handwritten digits from a wheel, with mixup."""
    return Recipe(data=Digits(), model=ViT(attention="denoising"), task=Classification(label_smoothing=0.1, mixup=0.2), optim=Optim(lr=4e-3))


@recipe
def image_folder(root: Path = Path("DIR"), img_size: int = 64) -> Recipe:
    """Your own images, a class a folder, with random crops and flips."""
    return Recipe(
        data=ImageFolder(root=root, img_size=img_size),
        model=ViT(attention="denoising"),
        task=Classification(label_smoothing=0.1),
        optim=Optim(lr=2e-3),
        steps=2000,
        eval_every=100,
        checkpoint_every=500,
    )
