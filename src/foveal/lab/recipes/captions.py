"""Captions of composed scenes and questions about them, from features of regions, by CATT's hosts.

No code of the paper's captioners was released: they are reconstructions, and so are their settings of training.

scene_captions   foveal train scene-captions; foveal compare --recipe scene-captions
                 needs the stamps (foveal data fetch tuxpaint-stamps) and the extras data and pretrained;
                 without them: --data.source digits --data.features pixels
scene_captions_reward  foveal train scene-captions-reward --model.start RUN
                 goes on from a run of scene-captions by self-critical training: CIDEr-D of what it says is the reward
scene_questions  foveal train scene-questions; foveal compare --recipe scene-questions
                 the same scenes; answers are even, so that a question alone says nothing; --data.prior 0.9 gives training a prior that the test has not
"""

from dataclasses import replace
from pathlib import Path

from ...models import Captioner, ImageAnswerer
from ..data import SceneCaptions, SceneQuestions
from ..tasks import Captioning, ImageQuestions, SelfCritical
from ..training import Data, Optim, Recipe
from ._registry import recipe

__all__ = ["scene_captions", "scene_captions_reward", "scene_questions"]


def _in_minutes(data: Data, model: Captioner | ImageAnswerer, task: Captioning | ImageQuestions, steps: int) -> Recipe:
    third = steps // 3
    optim = Optim(lr=1e-3, min_lr=1e-5, warmup=0.1)
    return Recipe(data=data, model=model, task=task, optim=optim, steps=steps, batch_size=64, eval_every=third, checkpoint_every=steps)


@recipe
def scene_captions() -> Recipe:
    """Say what is in a scene of one to three cut-out photographs, and how they lie."""
    return _in_minutes(SceneCaptions(), Captioner(), Captioning(), 600)


@recipe
def scene_captions_reward(start: Path = Path("RUN")) -> Recipe:
    """Go on from a run of scene-captions by what captions are worth: self-critical training."""
    optim = Optim(lr=5e-5, min_lr=5e-6, warmup=0.0)
    recipe = _in_minutes(SceneCaptions(), Captioner(start=start, dropout=0.0), SelfCritical(), 150)
    return replace(recipe, optim=optim, batch_size=16)


@recipe
def scene_questions() -> Recipe:
    """Answer questions about a scene: is there one, what is above it, how many are there, which is larger."""
    return _in_minutes(SceneQuestions(questions=6), ImageAnswerer(), ImageQuestions(), 1200)
