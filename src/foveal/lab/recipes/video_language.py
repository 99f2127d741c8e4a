"""Questions about clips, answered by a language model that is shown what a frozen tower and probes say. They need the extra ``hf``, for transformers.

clip_questions  foveal compare --recipe clip-questions
                one CPU core, under a minute a run; which digit is dim, which is bright, which way the bright one goes; docs/video-language.md has the results

The tower is trained on single frames when the data are first loaded, half a minute, and its features are kept in the cache folder.
"""

from ...models import VideoLanguage
from ..data import ClipQuestions
from ..tasks import VideoQuestions
from ..training import Optim, Recipe
from ._registry import recipe

__all__ = ["clip_questions"]


@recipe
def clip_questions() -> Recipe:
    """Answer questions about clips of two digits: what is dim, what is bright, which way it goes."""
    return Recipe(
        data=ClipQuestions(),
        model=VideoLanguage(),
        task=VideoQuestions(),
        optim=Optim(lr=2e-3, min_lr=1e-5, warmup=0.2),
        steps=600,
        batch_size=64,
        eval_every=200,
        checkpoint_every=600,
    )
