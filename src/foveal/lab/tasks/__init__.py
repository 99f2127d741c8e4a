"""Tasks: one file each, saying what a batch is, the loss, the metrics and the pictures.

How a task enters the library, so that ``foveal train``, ``eval``, ``compare`` and ``inspect`` work for it:

1. **Data**: a frozen keyword-only dataclass under ``foveal.lab.data``, subclass of ``Data``, decorated with ``@register_data``. Its class variable
   ``targets`` is the task's word (``labels``, ``masks``, ``boxes``, ``disparity``). ``load()`` returns a ``DataBundle``, or a subclass of it where the task
   must know more of its data. A split gives ``(input, target)`` of any form; ``augments`` says whether an item is drawn anew each time from torch's random
   numbers, which are then seeded by seed, epoch and index. ``smoke_data()`` gives a small set out of a package for a smoke run.
2. **Model**: a frozen keyword-only dataclass under ``foveal.models``, subclass of ``ModelConfig``, decorated with ``@register_model``:
   ``build(**model_kwargs)`` makes the network, ``smoke_model()`` a small one of its kind for a smoke run, ``arms()`` says by name what a comparison may put in
   the place of its attention, ``baseline`` which of them is the plain one.
3. **Task**: a frozen keyword-only dataclass here, subclass of ``Task``, decorated with ``@register_task``. Its ``primary_metric`` is the number that runs are
   judged by, and whether larger is better. :class:`Task` lists the other answers; nearly all have defaults:

   ===================  =============================================================================================
   ``model_kwargs``     keyword arguments of the model's ``build``
   ``collate``          samples to ``(inputs, targets)``; lists for samples that do not stack; ``len(targets)`` counts
   ``step``             loss and running sums of a training batch; or only ``loss`` where the network takes inputs alone
   ``phases``           what a training step does in turn, where it is more than one thing: which parameters move by
                        which loss; ``averaged`` names the part of which an average is kept
   ``trained``          the network as training calls it, where that is another call than evaluation's
   ``order``            which samples a step sees, where that is not all in turn; ``refresh`` learns something of the
                        data at the steps that ``refresh_steps`` names, to be saved with the weights, and
                        ``export_state`` writes it down
   ``predict``          outputs in evaluation mode
   ``metrics``          fresh torchmetrics; ``update`` counts a batch, ``summarize`` makes plain numbers, and by class
                        ``per_class: {class: {name: number}}``
   ``chance``           the headline of guessing, or None
   ``check_data``       refuses, before training, what would be found wanting at its end
   ``assess``           further numbers of a finished run, which cost too much for every evaluation
   ``cost``             multiply-adds of one sample, where an image alone does not drive the network
   ``results``          what was found in a batch, for a file in the format of a benchmark; none by default
   ``draw_truth``       samples and truth as rows of pictures; ``draw`` predictions and errors below them;
                        ``draw_prediction`` predictions of an image without truth
   ===================  =============================================================================================

4. **Recipe**: a function under ``foveal.lab.recipes``, decorated with ``@recipe``, that returns ``Recipe(data=…, model=…, task=…)``. The three must have the
   same ``targets``.

Nothing else lists kinds: JSON names each by its class.
"""

from typing import TYPE_CHECKING, Any

from ..._renamed import moved_member
from . import _extra  # noqa: F401  # the first: it says which package is missing
from ._generation import Generation
from ._image_grid import image_grid
from ._phase import Phase, parameters_of
from ._task import TASKS, Cell, PrimaryMetric, Row, SampleOrder, State, Task, register_task
from .adversarial import AdversarialGeneration
from .captioning import Captioning
from .causal_learning import CausalLearning
from .classification import Classification
from .detection import Detection
from .diffusion import Diffusion
from .environments import (
    Partition,
    complement_logits,
    environment_batches,
    environment_gradients,
    environment_loss,
    learn_partition,
    partition_objective,
    random_partition,
    weight_variance,
)
from .image_questions import ImageQuestions
from .points import PartSegmentation, PointClassification
from .region_answers import RegionAnswers
from .region_pretraining import RegionPretraining
from .segmentation import Segmentation, segmentation_scores
from .self_critical import SelfCritical
from .stereo import StereoErrors, StereoMatching
from .video import VideoClassification
from .video_conversations import VideoConversation
from .video_questions import VideoQuestions

__all__ = [
    "TASKS",
    "AdversarialGeneration",
    "Captioning",
    "CausalLearning",
    "Cell",
    "Classification",
    "Detection",
    "Diffusion",
    "Generation",
    "ImageQuestions",
    "PartSegmentation",
    "Partition",
    "Phase",
    "PointClassification",
    "PrimaryMetric",
    "RegionAnswers",
    "RegionPretraining",
    "Row",
    "SampleOrder",
    "Segmentation",
    "SelfCritical",
    "State",
    "StereoErrors",
    "StereoMatching",
    "Task",
    "VideoClassification",
    "VideoConversation",
    "VideoQuestions",
    "complement_logits",
    "environment_batches",
    "environment_gradients",
    "environment_loss",
    "image_grid",
    "learn_partition",
    "parameters_of",
    "partition_objective",
    "random_partition",
    "register_task",
    "segmentation_scores",
    "weight_variance",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return moved_member(__name__, name, {"Headline": "PrimaryMetric", "Walk": "SampleOrder"}, globals())
