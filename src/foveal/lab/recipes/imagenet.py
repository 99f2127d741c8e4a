"""Image classification on ImageNet-1K, from nothing: 1,281,167 training images, 1,000 classes, in folders or tar shards under ``--data.root``.

We have not run these to their end. Each line says what its source reports, which is what a run of it is to be held against; accuracies are top-1 on the 50,000
images of ``val``, in percent. ``--smoke`` tries any of them out in seconds. Where hardware is named, it is the authors'; their hours are not known to us.

Denoising attention (Campos et al. 2026, arXiv 2606.27372; settings of the official code). 300 epochs, one H100
dna_vit_base        foveal train dna-vit-base --data.root imagenet
                    0.8 points over its baseline, of which accuracy nothing absolute is known to us
vit_base            foveal train vit-base --data.root imagenet
                    that baseline: softmax attention, the same training. It has 14 % fewer parameters: compare with a wider softmax too

External attention (Guo et al. 2021, arXiv 2105.02358). 310 epochs, 8 GPUs
eamlp_7_384         foveal train eamlp-7-384 --data.root imagenet
                    71.66 in the last epoch of the authors' log; settings of the file beside it
eamlp_14            foveal train eamlp-14 --data.root imagenet
                    78.9 in the table of the ViP repository; of this training nothing is released, so it is that of the T2T-ViT of this depth
eamlp_19            foveal train eamlp-19 --data.root imagenet
                    79.4, likewise
t2t_vit_7_ea        foveal train t2t-vit-7-ea --data.root imagenet
                    external attention in the token module alone: no number that we could confirm; 71.7 for the performer there (the T2T-ViT repository)
t2t_vit_14_ea       foveal train t2t-vit-14-ea --data.root imagenet
                    81.7 (the paper's entry on Papers with Code); 81.5 for the performer there, 81.7 for softmax
t2t_vit_19_ea       foveal train t2t-vit-19-ea --data.root imagenet
                    no number that we could confirm; 81.9 for the performer there. All three with T2T-ViT's training, out of its README

Efficient attention (Shen et al. 2021, arXiv 1812.01243)
resnet50_efficient  foveal train resnet50-efficient --data.root imagenet
                    77.312 with two modules, 76.932 with one, 76.052 without (an article of the first author). Their training is not known: this is the plain
                    one of ResNets, 90 epochs, and so is our choice; so are the places of the modules

Halo attention (Vaswani et al. 2021, arXiv 2103.12731). The paper's training is not known to us
halonet_h0          foveal train halonet-h0 --data.root imagenet
halonet_h1          foveal train halonet-h1 --data.root imagenet
                    77.9 and 79.9 (as keras_cv_attention_models transcribes the paper). Training A2 of "ResNet strikes back" (arXiv 2110.00476), 300 epochs, is
                    our choice
halonet26t          foveal train halonet26t --data.root imagenet
halonet50ts         foveal train halonet50ts --data.root imagenet
                    79.13 and 81.64 (timm's weights). After timm's description: A1 of "ResNet strikes back", 600 epochs; timm had more dropout, stochastic depth
                    and RandAugment, how much more is not known to us
sehalonet33ts       foveal train sehalonet33ts --data.root imagenet
eca_halonext26ts    foveal train eca-halonext26ts --data.root imagenet
                    80.98 and 79.52 (timm's weights, trained otherwise); A1 is our choice

What differs from the published trainings: the learning rate moves at every step, not every epoch; batches run on over the end of an epoch, so no image is left
out; binary cross-entropy has no label smoothing, of which A1 has 0.1; mixup and cutmix are torchvision's. Half precision is the authors' where it is known: on
a GPU without it, or a CPU, ``--precision no``, or ``bf16``.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from ...timm import TimmModel
from ..data import ImageNet
from ..tasks import Classification
from ..training import Optim, Recipe
from ._registry import recipe

__all__ = [
    "dna_vit_base",
    "eamlp_7_384",
    "eamlp_14",
    "eamlp_19",
    "eca_halonext26ts",
    "halonet26t",
    "halonet50ts",
    "halonet_h0",
    "halonet_h1",
    "resnet50_efficient",
    "sehalonet33ts",
    "t2t_vit_7_ea",
    "t2t_vit_14_ea",
    "t2t_vit_19_ea",
    "vit_base",
]

IMAGES = 1_281_167
ROOT = Path("imagenet")
MIXED = Classification(mixup=0.8, cutmix=1.0, label_smoothing=0.1)


def _recipe(
    data: ImageNet,
    model: TimmModel,
    task: Classification,
    optim: Optim,
    *,
    epochs: int,
    batch_size: int,
    precision: Literal["no", "bf16", "fp16"],
    repeats: int = 1,
) -> Recipe:
    """A training of whole epochs, which looks at ``val`` every fifth and is saved every one."""
    epoch = IMAGES // batch_size
    return Recipe(
        data=data,
        model=model,
        task=task,
        optim=optim,
        steps=epochs * epoch,
        batch_size=batch_size,
        eval_every=5 * epoch,
        checkpoint_every=epoch,
        repeats=repeats,
        precision=precision,
        workers=8,
    )


def _dna(root: Path, model: TimmModel) -> Recipe:
    """Weight decay is on every parameter, stochastic depth alike in every block; every image comes three times in a row."""
    return _recipe(
        ImageNet(root=root, random_erasing=0.25),
        replace(model, drop_path=0.15, constant_drop_path=True),
        MIXED,
        Optim(lr=1e-3, min_lr=1e-5, warmup_lr=1e-6, warmup=5 / 300, weight_decay=0.075, decay_all=True, clip_grad=None, accumulate=4),
        epochs=300,
        batch_size=1024,
        precision="fp16",
        repeats=3,
    )


@recipe
def dna_vit_base(root: Path = ROOT) -> Recipe:
    """ImageNet: DnA ViT-B, denoising attention in every block."""
    return _dna(root, TimmModel(name="fov_dna_vit_base_patch16_224", smoke_name="test_fov_dna_vit"))


@recipe
def vit_base(root: Path = ROOT) -> Recipe:
    """ImageNet: ViT-B with softmax attention, the baseline of DnA ViT-B, trained alike."""
    # positions of the patches alone, as in the network it is the baseline of
    return _dna(root, TimmModel(name="vit_base_patch16_224", options={"no_embed_class": True}, smoke_name="test_vit"))


def _t2t(
    root: Path,
    name: str,
    *,
    miniature: str,
    lr: float,
    weight_decay: float,
    img_size: int = 224,
    precision: Literal["no", "fp16"] = "fp16",
) -> Recipe:
    """T2T-ViT's training, which is EAMLP's too: 300 epochs of a cosine, and ten at its end."""
    return _recipe(
        ImageNet(root=root, img_size=img_size, interpolation="random", random_erasing=0.25, crop_pct=0.9),
        TimmModel(name=name, drop_path=0.1, smoke_name=miniature),
        MIXED,
        Optim(lr=lr, min_lr=1e-5, warmup_lr=1e-6, warmup=5 / 310, cooldown=10 / 310, weight_decay=weight_decay, clip_grad=None, ema=0.99996),
        epochs=310,
        batch_size=512,
        precision=precision,
    )


@recipe
def t2t_vit_7_ea(root: Path = ROOT) -> Recipe:
    """ImageNet: T2T-ViT-7 with external attention in the token module."""
    return _t2t(root, "fov_t2t_vit_7_ea", miniature="test_fov_t2t_vit_ea", lr=1e-3, weight_decay=0.03)


@recipe
def t2t_vit_14_ea(root: Path = ROOT) -> Recipe:
    """ImageNet: T2T-ViT-14 with external attention in the token module."""
    return _t2t(root, "fov_t2t_vit_14_ea", miniature="test_fov_t2t_vit_ea", lr=5e-4, weight_decay=0.05)


@recipe
def t2t_vit_19_ea(root: Path = ROOT) -> Recipe:
    """ImageNet: T2T-ViT-19 with external attention in the token module."""
    return _t2t(root, "fov_t2t_vit_19_ea", miniature="test_fov_t2t_vit_ea", lr=5e-4, weight_decay=0.065)


@recipe
def eamlp_7_384(root: Path = ROOT) -> Recipe:
    """ImageNet at 384 pixels: EAMLP-7, external attention everywhere."""
    # batches of 64 a GPU; that there were eight GPUs is T2T-ViT's, with the same learning rate
    return _t2t(root, "fov_eamlp_7", miniature="test_fov_eamlp", lr=1e-3, weight_decay=0.03, img_size=384, precision="no")


@recipe
def eamlp_14(root: Path = ROOT) -> Recipe:
    """ImageNet: EAMLP-14, external attention everywhere."""
    return _t2t(root, "fov_eamlp_14", miniature="test_fov_eamlp", lr=5e-4, weight_decay=0.05)


@recipe
def eamlp_19(root: Path = ROOT) -> Recipe:
    """ImageNet: EAMLP-19, external attention everywhere."""
    return _t2t(root, "fov_eamlp_19", miniature="test_fov_eamlp", lr=5e-4, weight_decay=0.065)


@recipe
def resnet50_efficient(root: Path = ROOT) -> Recipe:
    """ImageNet: ResNet-50 with two efficient attentions, trained as ResNets are."""
    return _recipe(
        ImageNet(root=root, auto_augment=None, interpolation="bilinear"),
        TimmModel(name="fov_resnet50_ea2", smoke_name="test_fov_resnet_ea"),
        Classification(),
        Optim(optimizer="sgd", lr=0.1, schedule="steps", milestones=(1 / 3, 2 / 3), warmup=0.0, weight_decay=1e-4, decay_all=True, clip_grad=None),
        epochs=90,
        batch_size=256,
        precision="no",
    )


def _strikes_back(root: Path, name: str, *, miniature: str, crop_pct: float, epochs: int, mixup: float, weight_decay: float) -> Recipe:
    """The training of "ResNet strikes back" at 256 pixels, where these networks are at home: LAMB, binary cross-entropy, every image three times in a row."""
    return _recipe(
        ImageNet(root=root, img_size=256, auto_augment="rand-m7-mstd0.5-inc1", crop_pct=crop_pct),
        TimmModel(name=name, drop_path=0.05, smoke_name=miniature),
        Classification(bce=True, mixup=mixup, cutmix=1.0),
        # timm's LAMB bounds the gradient itself
        Optim(optimizer="lamb", lr=5e-3, min_lr=1e-6, warmup=5 / epochs, weight_decay=weight_decay, clip_grad=None),
        epochs=epochs,
        batch_size=2048,
        precision="bf16",
        repeats=3,
    )


def _family(root: Path, size: str) -> Recipe:
    return _strikes_back(root, f"fov_halonet_{size}", miniature="test_fov_halonet", crop_pct=0.95, epochs=300, mixup=0.1, weight_decay=0.02)


def _hybrid(root: Path, name: str, crop_pct: float) -> Recipe:
    return _strikes_back(root, f"fov_{name}", miniature="test_fov_halonet26t", crop_pct=crop_pct, epochs=600, mixup=0.2, weight_decay=0.01)


@recipe
def halonet_h0(root: Path = ROOT) -> Recipe:
    """ImageNet at 256 pixels: HaloNet H0."""
    return _family(root, "h0")


@recipe
def halonet_h1(root: Path = ROOT) -> Recipe:
    """ImageNet at 256 pixels: HaloNet H1."""
    return _family(root, "h1")


@recipe
def halonet26t(root: Path = ROOT) -> Recipe:
    """ImageNet at 256 pixels: timm's HaloNet-26-T, convolutions with halo attention at the end."""
    return _hybrid(root, "halonet26t", 0.95)


@recipe
def halonet50ts(root: Path = ROOT) -> Recipe:
    """ImageNet at 256 pixels: timm's HaloNet-50-TS."""
    return _hybrid(root, "halonet50ts", 0.94)


@recipe
def sehalonet33ts(root: Path = ROOT) -> Recipe:
    """ImageNet at 256 pixels: timm's SE-HaloNet-33-TS."""
    return _hybrid(root, "sehalonet33ts", 0.94)


@recipe
def eca_halonext26ts(root: Path = ROOT) -> Recipe:
    """ImageNet at 256 pixels: timm's ECA-HaloNeXt-26-TS."""
    return _hybrid(root, "eca_halonext26ts", 0.94)
