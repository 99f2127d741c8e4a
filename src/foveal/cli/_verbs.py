"""The verbs: where each lies, what it needs, and how it is said. Nothing here imports torch, so that help and version come at once."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from .._errors import require

__all__ = ["VERBS", "Verb"]

_WORDS = ("tyro", "rich")
_TRAINING = (*_WORDS, "numpy", "PIL", "timm", "torchvision", "accelerate", "torchmetrics", "filelock", "safetensors")
_COMPARISON = (*_TRAINING, "matplotlib", "jinja2", "jsonschema", "scipy")


@dataclass(frozen=True)
class Verb:
    """A word after ``foveal``."""

    module: str
    function: str
    about: str
    example: str
    needs: tuple[str, ...] = ()
    """Modules that it cannot do without, whatever its options; one extra brings all."""
    extra: str | None = None
    """The extra that is named where one is missing; the smallest that brings them if None."""

    def load(self, name: str) -> Callable[[list[str]], None]:
        """What takes the words behind the verb.

        Raises:
            MissingExtra: something that it needs is not installed.
        """
        require(f"foveal {name}", self.needs, extra=self.extra)
        loaded: Callable[[list[str]], None] = getattr(import_module(f".{self.module}", __package__), self.function)
        return loaded


VERBS: dict[str, Verb] = {
    "list": Verb(
        "_list",
        "list_everything",
        "Attentions, recipes, official checkpoints, networks; those that fit: list [WORD …]",
        "foveal list recipes segmentation",
        _TRAINING,
    ),
    "data": Verb(
        "_data", "data", "What data there are, and what they look like: data list | fetch NAME | show NAME", "foveal data show digit-scenes", _TRAINING
    ),
    "train": Verb(
        "_train",
        "train",
        "Train a recipe, resume a run, or repeat one: train RECIPE | --resume RUN | --from recipe.json",
        "foveal train cluttered-digits --steps 500 --out runs/first",
        _TRAINING,
    ),
    "eval": Verb("_eval", "evaluate_run", "Print and write the metrics of a finished run: eval RUN", "foveal eval runs/first", _TRAINING),
    "sample": Verb(
        "_sample",
        "sample",
        "Draw images with a finished run that draws, into one picture: sample RUN",
        "foveal sample runs/first -n 64 --classes 3 5 --out samples.png",
        _TRAINING,
    ),
    "compare": Verb(
        "_compare",
        "compare",
        "Train several attentions on equal budgets and write a report.",
        "foveal compare --attentions denoising external --seeds 5 --steps 500",
        _COMPARISON,
    ),
    "study": Verb(
        "_study",
        "study",
        "Run a study that was registered before its runs, and write what became of its hypotheses: study NAME",
        "foveal study denoising --only S1 S2",
        _COMPARISON,
        "compare",
    ),
    "inspect": Verb(
        "_inspect",
        "inspect",
        "Draw where a run or any model looks in one image or video: inspect RUN|MODEL IMAGE",
        "foveal inspect runs/first photo.jpg",
        (*_WORDS, "numpy", "PIL", "matplotlib"),
        "compare",
    ),
    "bench": Verb(
        "_bench",
        "bench",
        "Measure time, memory and multiply-adds of attentions and models: bench NAME …",
        "foveal bench denoising softmax --tokens 196 4096",
        (*_WORDS, "matplotlib"),
        "compare",
    ),
    "export": Verb(
        "_export",
        "export",
        "Write a model as ONNX or as a PyTorch program, checked: export RUN|MODEL",
        "foveal export runs/first --to onnx",
        ("tyro",),
        "train,onnx",
    ),
    "doctor": Verb("_doctor", "doctor", "What a bug report needs, and whether results on this machine are right, in seconds.", "foveal doctor"),
    "info": Verb("_info", "info", "Versions and devices in short.", "foveal info"),
}
"""In the order of the usage."""
