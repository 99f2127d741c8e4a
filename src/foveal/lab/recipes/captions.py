"""Captions of composed scenes and questions about them, from features of regions, by CATT's hosts.

No code of the paper's captioners was released: they are reconstructions.

scene_captions   foveal train scene-captions; foveal compare --recipe scene-captions
                 needs the stamps (foveal data fetch tuxpaint-stamps) and the extras data and pretrained;
                 without them: --data.source digits --data.features pixels
scene_questions  foveal train scene-questions; foveal compare --recipe scene-questions
                 the same scenes; answers are even, so that a question alone says nothing; --data.prior 0.9 gives training a prior that the test has not
"""

from ...models import Captioner, ImageAnswerer
from ..data import SceneCaptions, SceneQuestions
from ..tasks import Captioning, ImageQuestions
from ..training import Optim, Recipe
from ._registry import recipe

__all__ = ["scene_captions", "scene_questions"]


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


@recipe
def scene_questions() -> Recipe:
    """Answer questions about a scene: is there one, what is above it, how many are there, which is larger."""
    return Recipe(
        data=SceneQuestions(),
        model=ImageAnswerer(),
        task=ImageQuestions(),
        optim=Optim(lr=1e-3, min_lr=1e-5, warmup=0.1),
        steps=900,
        batch_size=64,
        eval_every=300,
        checkpoint_every=900,
    )
