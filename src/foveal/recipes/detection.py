"""Detection and instance segmentation.

digit_detection   foveal train digit-detection
                  two CPU cores, minutes; several digits in a scene, with boxes and masks
flag_detection    foveal train flag-detection
                  two CPU cores, minutes; both shapes are found without attention, their labels only with it
nuclei_detection  foveal train nuclei-detection
                  two CPU cores, minutes; single nuclei in a real image
"""

from ..data import DigitScenes, FlagSwapBoxes, NucleiInstances
from ..models import SmallDetector
from ..tasks import Detection
from ..training import Optim, Recipe
from ._registry import recipe

__all__ = ["digit_detection", "flag_detection", "nuclei_detection"]

_SMALL = Optim(lr=2e-3, weight_decay=1e-4)


@recipe
def digit_detection() -> Recipe:
    """Boxes and masks of several digits in a scene."""
    return Recipe(
        data=DigitScenes(),
        model=SmallDetector(attention="external_2d", options={"slots": 16}, depth=5, prototypes=8),
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
        optim=_SMALL,
        steps=700,
        batch_size=32,
        eval_every=100,
        checkpoint_every=250,
    )


@recipe
def nuclei_detection() -> Recipe:
    """Single cell nuclei in a real image, out of a wheel: boxes and masks."""
    return Recipe(
        data=NucleiInstances(img_size=64),
        model=SmallDetector(attention="external_2d", options={"slots": 16}, depth=5, prototypes=8),
        task=Detection(masks=True),
        optim=_SMALL,
        steps=300,
        batch_size=16,
        eval_every=50,
    )
