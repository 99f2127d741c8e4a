"""Captions of composed scenes, from features of regions, by CATT's hosts. No code of the paper's captioners was released: they are reconstructions.

scene_captions   foveal train scene-captions; foveal compare --recipe scene-captions
                 needs the stamps (foveal data fetch tuxpaint-stamps) and the extras data and pretrained;
                 without them: --data.source digits --data.features pixels
"""

from ...models import Captioner
from ..data import SceneCaptions
from ..tasks import Captioning
from ..training import Optim, Recipe
from ._registry import recipe

__all__ = ["scene_captions"]


@recipe
def scene_captions() -> Recipe:
    """Say what is in a scene of one to three cut-out photographs, and how they lie."""
    return Recipe(
        data=SceneCaptions(),
        model=Captioner(),
        task=Captioning(),
        optim=Optim(lr=1e-3, min_lr=1e-5, warmup=0.1),
        steps=600,
        batch_size=64,
        eval_every=200,
        checkpoint_every=600,
    )
