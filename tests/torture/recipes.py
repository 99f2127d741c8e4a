"""A training of seconds for every task."""

from dataclasses import replace

from foveal.lab import tasks
from foveal.lab.recipes import get_recipe, smoke
from foveal.lab.training import Recipe
from tests.training.helpers import everything

__all__ = ["TASKS", "tiny_of"]

TASKS = {
    "Classification": "everything",
    "AdversarialGeneration": "sagan-digits",
    "CausalLearning": "contexted-digits",
    "Captioning": "scene-captions",
    "Detection": "flag-detection",
    "Diffusion": "dit-digits",
    "ImageQuestions": "scene-questions",
    "PartSegmentation": "solid-pairs",
    "PointClassification": "solids",
    "RegionAnswers": "region-questions",
    "RegionPretraining": "region-sentences",
    "Segmentation": "flag-swap",
    "SelfCritical": "scene-captions",
    "StereoMatching": "shift-stereo",
    "VideoClassification": "moving-digits",
    "VideoConversation": "viscop-dna",
    "VideoQuestions": "clip-questions",
}
"""By task the recipe whose data and network it is tried on; ``everything`` is that of the tests of training, with all that draws or keeps a state."""


def tiny_of(task: str, **changes: object) -> Recipe:
    """Six steps, with a checkpoint behind every second and an evaluation behind every third."""
    name = TASKS[task]
    recipe = everything() if name == "everything" else smoke(get_recipe(name), batch_size=8 if task == "CausalLearning" else 4)
    if type(recipe.task).__name__ != task:
        recipe = replace(recipe, task=tasks.TASKS[task]())
    return replace(recipe, steps=6, eval_every=3, checkpoint_every=2, **changes)  # type: ignore[arg-type]
