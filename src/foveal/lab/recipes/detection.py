"""Detection and instance segmentation.

digit_detection   foveal train digit-detection
                  two CPU cores, minutes; several digits in a scene, with boxes and masks
flag_detection    foveal train flag-detection
                  two CPU cores, minutes; both shapes are found without attention, their labels only with it
nuclei_detection  foveal train nuclei-detection
                  two CPU cores, minutes; single nuclei in a real image
cutout_detection  foveal data fetch tuxpaint-stamps (157 MB), then foveal train cutout-detection
                  two CPU cores, minutes; cut-out photographs of ten classes on photographs, with boxes and masks. Test shows neither cut-outs nor
                  backgrounds of training, and there are few of both: 0.081 box AP, 0.194 AP50

The benchmark. We have not run these; they need COCO 2017, ImageNet weights that torchvision downloads, and days on several GPUs. Numbers of external
attention are recalled, unchecked: about one point of box AP more than the same detector without, for which 36.5 (RetinaNet), 37.4 (Faster), 38.2 box and 34.7
mask (Mask), 40.3 (Cascade R-CNN) are recalled of MMDetection's shortest schedule. The block brings 8.65 M weights along, nearly all in its two 1×1
convolutions: compare with the arm ``pointwise``, which has these alone, before the gain is put down to attention.

coco_retinanet     foveal train coco-retinanet --data.root coco
coco_faster_rcnn   foveal train coco-faster-rcnn --data.root coco
coco_mask_rcnn     foveal train coco-mask-rcnn --data.root coco
coco_cascade_rcnn  foveal train coco-cascade-rcnn --data.root coco
                   external attention behind stage 5 of a ResNet-50 (Guo et al. 2021, arXiv 2105.02358), which is recalled of the paper; 12 epochs of 16 images
coco_efficient     foveal train coco-efficient --data.root coco
                   Mask R-CNN with seven modules of efficient attention in res3, res4 and pyramid. Its authors report 41.2 box and 36.7 mask AP, 39.4 and 35.1
                   without; 40.2 and 36.0 with one module, 40.6 and 36.1 with five (Shen et al., in the text of 2019 on an author's page, arXiv 1812.01243).
                   Their schedule is not known and is longer than this one: do not compare its numbers with theirs
coco_halo          foveal train coco-halo --data.root coco
                   Mask R-CNN with halo attention for the 3×3 convolutions of the last stage (Vaswani et al. 2021, arXiv 2103.12731). No number known

What differs from the published trainings: warm-up is linear from 0 over its first 500 steps, and decay is the same for biases and norms.
"""

from dataclasses import replace
from pathlib import Path

from ...models import EFFICIENT_PLACES, PyramidDetector, SmallDetector
from ..data import CocoFolder, CutoutScenes, DigitScenes, FlagSwapBoxes, NucleiInstances
from ..tasks import Detection
from ..training import Optim, Recipe
from ._registry import recipe

__all__ = [
    "coco_cascade_rcnn",
    "coco_efficient",
    "coco_faster_rcnn",
    "coco_halo",
    "coco_mask_rcnn",
    "coco_retinanet",
    "cutout_detection",
    "digit_detection",
    "flag_detection",
    "nuclei_detection",
]

_SMALL = Optim(lr=5e-3, weight_decay=1e-4)


@recipe
def digit_detection() -> Recipe:
    """Boxes and masks of several digits in a scene."""
    return Recipe(
        data=DigitScenes(),
        model=SmallDetector(attention="external_2d", options={"slots": 16}, depth=5, prototypes=8, box_weight=1.0),
        task=Detection(masks=True),
        optim=_SMALL,
        steps=600,
        batch_size=16,
        eval_every=150,
        checkpoint_every=300,
    )


@recipe
def flag_detection() -> Recipe:
    """Two shapes whose labels a far flag exchanges, as boxes: detection that needs the whole image."""
    return Recipe(
        data=FlagSwapBoxes(),
        model=SmallDetector(attention="external_2d", options={"slots": 16}, depth=2, stride=2),
        task=Detection(),
        optim=replace(_SMALL, lr=2e-3),
        steps=1_000,
        batch_size=32,
        eval_every=200,
        checkpoint_every=250,
    )


@recipe
def nuclei_detection() -> Recipe:
    """Single cell nuclei in a real image, out of a wheel: boxes and masks."""
    return Recipe(
        data=NucleiInstances(img_size=64),
        model=SmallDetector(attention="external_2d", options={"slots": 16}, depth=5, prototypes=8, box_weight=1.0),
        task=Detection(masks=True),
        optim=_SMALL,
        steps=300,
        batch_size=16,
        eval_every=50,
    )


@recipe
def cutout_detection() -> Recipe:
    """Boxes and masks of cut-out photographs on photographs."""
    return Recipe(
        data=CutoutScenes(),
        model=SmallDetector(attention="external_2d", options={"slots": 16}, width=48, depth=7, stride=8, prototypes=8, box_weight=1.0),
        task=Detection(masks=True),
        optim=_SMALL,
        steps=600,
        batch_size=16,
        eval_every=150,
        checkpoint_every=150,
    )


def _coco(model: PyramidDetector, root: Path, lr: float = 0.02) -> Recipe:
    """Twelve epochs of 16 images, a tenth of the learning rate after the eighth and the eleventh."""
    masks = "mask" in model.host
    return Recipe(
        data=CocoFolder(root=root, masks=masks, check=False),
        model=replace(model, pretrained=True),
        task=Detection(masks=masks),
        optim=Optim(optimizer="sgd", lr=lr, min_lr=0.0, schedule="steps", milestones=(8 / 12, 11 / 12), warmup=500 / 88_000, weight_decay=1e-4, clip_grad=None),
        steps=88_000,
        batch_size=16,
        eval_every=7_330,
        checkpoint_every=2_000,
        workers=8,
    )


@recipe
def coco_retinanet(root: Path = Path("coco")) -> Recipe:
    """COCO: RetinaNet, external attention behind stage 5."""
    return _coco(PyramidDetector(host="retinanet", attention="external_2d"), root, lr=0.01)


@recipe
def coco_faster_rcnn(root: Path = Path("coco")) -> Recipe:
    """COCO: Faster R-CNN, external attention behind stage 5."""
    return _coco(PyramidDetector(host="faster_rcnn", attention="external_2d"), root)


@recipe
def coco_mask_rcnn(root: Path = Path("coco")) -> Recipe:
    """COCO: Mask R-CNN, external attention behind stage 5."""
    return _coco(PyramidDetector(host="mask_rcnn", attention="external_2d"), root)


@recipe
def coco_cascade_rcnn(root: Path = Path("coco")) -> Recipe:
    """COCO: Cascade R-CNN, external attention behind stage 5."""
    return _coco(PyramidDetector(host="cascade_rcnn", attention="external_2d"), root)


@recipe
def coco_efficient(root: Path = Path("coco")) -> Recipe:
    """COCO: Mask R-CNN with seven modules of efficient attention, which start as nothing."""
    # gamma that starts at 0 is ours: the pretrained features are kept then
    return _coco(PyramidDetector(attention="efficient_2d", places=EFFICIENT_PLACES[7], options={"gamma_init": 0.0}), root)


@recipe
def coco_halo(root: Path = Path("coco")) -> Recipe:
    """COCO: Mask R-CNN with halo attention in the last stage."""
    return _coco(PyramidDetector(halo_stages=(4,)), root)
