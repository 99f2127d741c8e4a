"""Semantic segmentation.

flag_swap    foveal train flag-swap
             two CPU cores, minutes; with external attention nearly all labels are right, without attention every second one
nuclei       foveal train nuclei
             two CPU cores, minutes; one real image of 125 nuclei, parts of which train and test
brain        foveal train brain
             two CPU cores, minutes; tissues in slices of one averaged brain
mask_folder  foveal train mask-folder --data.root DIR --data.classes background thing
             your own images and masks

The benchmarks, each with what its paper reports. We have not reproduced these; they need the data, and days on several GPUs.

voc          foveal train voc --data.root VOCdevkit/VOC2012
             EANet, ResNet-101: 84.0 mean IoU on test, after a further stage on trainval (Guo et al. 2021, arXiv 2105.02358; settings of the official code)
ade20k       foveal train ade20k --data.root ADEChallengeData2016
             EANet, ResNet-101: 45.33 mean IoU on val (the paper's entry on PapersWithCode; schedule of mmsegmentation)
cityscapes   foveal train cityscapes --data.root DIR
             EANet, ResNet-101: 81.7 mean IoU on val (likewise)
vaihingen    foveal train vaihingen --data.root DIR
             MAResU-Net, ResNet-34: mean F1 90.28, overall accuracy 90.86, mean IoU 83.30 on test (Li et al. 2021, arXiv 2011.14302, as a summary of it quotes;
             the paper's split and patch size are not known to us)

The encoders start from timm's ImageNet weights, which are downloaded; ``--model.pretrained False`` starts from nothing. What differs from the published
trainings: learning rates and decay are the same for biases and weights (the official code doubles the one and drops the other for biases), and a schedule
moves at every step.
"""

from pathlib import Path

from ...models import DilatedResNet, MAResUNet, SmallFCN
from ..data import ADE20K, ISPRS, BrainSlabs, Cityscapes, FlagSwap, MaskFolder, Nuclei, PascalVOC
from ..tasks import Segmentation
from ..training import Optim, Recipe
from ._registry import recipe

__all__ = ["ade20k", "brain", "cityscapes", "flag_swap", "mask_folder", "nuclei", "vaihingen", "voc"]


@recipe
def flag_swap() -> Recipe:
    """Two shapes whose labels a far flag exchanges: segmentation that needs the whole image."""
    return Recipe(
        data=FlagSwap(),
        model=SmallFCN(attention="external_2d", options={"slots": 16}),
        task=Segmentation(),
        optim=Optim(lr=5e-3, weight_decay=1e-4),
        steps=500,
        batch_size=32,
    )


@recipe
def nuclei() -> Recipe:
    """Cell nuclei in a real image, out of a wheel."""
    return Recipe(
        data=Nuclei(img_size=64),
        model=SmallFCN(attention="external_2d", width=24, depth=4, stride=2, options={"slots": 16}),
        task=Segmentation(),
        optim=Optim(lr=5e-3, weight_decay=1e-4),
        steps=200,
        batch_size=16,
        eval_every=20,
    )


@recipe
def brain() -> Recipe:
    """Gray and white matter in slices of a brain, out of a wheel."""
    return Recipe(
        data=BrainSlabs(),
        model=SmallFCN(attention="linear_2d", width=24, depth=4, stride=2),
        task=Segmentation(),
        optim=Optim(lr=5e-3, weight_decay=1e-4),
        steps=200,
        batch_size=8,
        eval_every=50,
    )


@recipe
def mask_folder(root: Path = Path("DIR"), img_size: int = 128) -> Recipe:
    """Your own images and masks of class numbers; name the classes."""
    return Recipe(
        data=MaskFolder(root=root, img_size=img_size, classes=("background", "thing"), jitter=0.2),
        model=SmallFCN(attention="external_2d", depth=5, stride=4),
        task=Segmentation(window=2 * img_size),
        optim=Optim(lr=2e-3, weight_decay=1e-4),
        steps=2000,
        batch_size=16,
        eval_every=200,
        checkpoint_every=500,
        workers=2,
    )


EANET = DilatedResNet(backbone="resnet101", pretrained=True)
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@recipe
def voc(root: Path = Path("VOCdevkit/VOC2012")) -> Recipe:
    """EANet on PASCAL VOC 2012 with the augmented masks: 45,000 steps, six scales and mirrors in evaluation."""
    return Recipe(
        data=PascalVOC(root=root),
        model=EANET,
        task=Segmentation(scales=SCALES, flip=True),
        optim=Optim(optimizer="sgd", lr=9e-3, min_lr=0.0, schedule="poly", warmup=0.0, weight_decay=1e-4, clip_grad=None),
        steps=45_000,
        batch_size=16,
        eval_every=5_000,
        checkpoint_every=1_000,
        workers=8,
    )


@recipe
def ade20k(root: Path = Path("ADEChallengeData2016")) -> Recipe:
    """EANet on ADE20K: 160,000 steps of 512×512."""
    return Recipe(
        data=ADE20K(root=root, jitter=0.4),
        model=EANET,
        task=Segmentation(),
        optim=Optim(optimizer="sgd", lr=1e-2, min_lr=1e-4, schedule="poly", warmup=0.0, weight_decay=5e-4, clip_grad=None),
        steps=160_000,
        batch_size=16,
        eval_every=16_000,
        checkpoint_every=2_000,
        workers=8,
    )


@recipe
def cityscapes(root: Path = Path("cityscapes")) -> Recipe:
    """EANet on Cityscapes: 80,000 steps; crops are squares of 768, an eighth more pixels than mmsegmentation's 512×1024."""
    return Recipe(
        data=Cityscapes(root=root, jitter=0.4),
        model=EANET,
        task=Segmentation(),
        optim=Optim(optimizer="sgd", lr=1e-2, min_lr=1e-4, schedule="poly", warmup=0.0, weight_decay=5e-4, clip_grad=None),
        steps=80_000,
        batch_size=8,
        eval_every=8_000,
        checkpoint_every=2_000,
        workers=8,
    )


@recipe
def vaihingen(root: Path = Path("vaihingen")) -> Recipe:
    """MAResU-Net on ISPRS Vaihingen, Adam at 3e-4 on 512×512 patches; tiles are evaluated by windows."""
    return Recipe(
        data=ISPRS(root=root),
        model=MAResUNet(pretrained=True),
        task=Segmentation(window=512, window_step=256),
        optim=Optim(optimizer="adam", lr=3e-4, min_lr=3e-6, warmup=0.0, weight_decay=0.0, clip_grad=None),
        steps=20_000,
        batch_size=16,
        eval_every=1_000,
        checkpoint_every=1_000,
        workers=8,
    )
