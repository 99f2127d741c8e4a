"""Images drawn by generators that are trained against discriminators.

sagan_digits          foveal train sagan-digits
                      seven minutes of a CPU core; real digits of 14×14 pixels, by class, and a small network. --data.half False draws them at 28×28 for five
                      times the work a step
sagan_emoji           foveal data fetch emoji-google; foveal train sagan-emoji
                      emoji of 32×32 pixels, by category, with the same network. We have run it in miniature alone
sagan_folder          foveal train sagan-folder --data.root DIR
                      any folder of images
sagan_cifar10         foveal train sagan-cifar10 --data.root DIR
sagan_tiny_imagenet   foveal train sagan-tiny-imagenet --data.root DIR
sagan_imagenet        foveal train sagan-imagenet --data.root DIR
                      as PyTorch-StudioGAN of May 2021 trained SAGAN, the host of the external attention paper; for a GPU. We have run none of them; published
                      numbers: docs/generation.md
"""

from pathlib import Path

from ...models import SAGAN
from ..data import CIFAR10Files, DigitImages, Emoji, FolderImages, TinyImageNet
from ..tasks import AdversarialGeneration
from ..training import Data, Optim, Recipe
from ._registry import recipe

__all__ = ["sagan_cifar10", "sagan_digits", "sagan_emoji", "sagan_folder", "sagan_imagenet", "sagan_tiny_imagenet"]


def _adam(lr: float, beta: float, ema: float | None = None) -> Optim:
    fixed = {"weight_decay": 0.0, "warmup": 0.0, "clip_grad": None}
    return Optim(optimizer="adam", lr=lr, betas=(beta, 0.999), eps=1e-6, schedule="constant", ema=ema, **fixed)  # type: ignore[arg-type]


def _small(data: Data, metric: str = "none") -> Recipe:
    return Recipe(
        data=data,
        model=SAGAN(width=16),
        task=AdversarialGeneration(d_lr=4e-4, metric=metric),
        optim=_adam(2e-4, 0.0, ema=0.999),
        batch_size=32,
        steps=2000,
        eval_every=200,
        checkpoint_every=500,
    )


def _published(data: Data, task: AdversarialGeneration, optim: Optim, batch_size: int, steps: int) -> Recipe:
    return Recipe(data=data, model=SAGAN(), task=task, optim=optim, batch_size=batch_size, steps=steps, eval_every=2000, checkpoint_every=2000, workers=8)


@recipe
def sagan_digits() -> Recipe:
    """Draw handwritten digits by class, with a small SAGAN."""
    return _small(DigitImages(half=True), metric="digits")


@recipe
def sagan_emoji() -> Recipe:
    """Draw emoji by category, with a small SAGAN."""
    return _small(Emoji(), metric="classifier")


@recipe
def sagan_folder() -> Recipe:
    """Draw images like those of a folder, with a small SAGAN."""
    return _small(FolderImages(root=Path("data/images"), img_size=32))


@recipe
def sagan_cifar10() -> Recipe:
    """SAGAN on CIFAR-10, as the external attention paper's host was trained."""
    task = AdversarialGeneration(d_steps=5, bn="batch")
    return _published(CIFAR10Files(root=Path("data/cifar-10-batches-py")), task, _adam(2e-4, 0.5), 64, 100_000)


@recipe
def sagan_tiny_imagenet() -> Recipe:
    """SAGAN on Tiny-ImageNet at 64 pixels, as the external attention paper's host was trained."""
    task = AdversarialGeneration(d_lr=4e-4, bn="batch")
    return _published(TinyImageNet(root=Path("data/tiny-imagenet-200")), task, _adam(1e-4, 0.0), 256, 100_000)


@recipe
def sagan_imagenet() -> Recipe:
    """SAGAN on ImageNet at 128 pixels, as PyTorch-StudioGAN trains it."""
    task = AdversarialGeneration(d_lr=4e-4, bn="batch")
    return _published(FolderImages(root=Path("data/imagenet"), img_size=128, check=False), task, _adam(1e-4, 0.0), 256, 1_000_000)
