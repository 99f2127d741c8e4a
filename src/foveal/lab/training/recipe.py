"""A recipe: everything that decides a training run, in one typed value that goes to JSON and back."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from ..._errors import InputError, unknown
from ..._fits import described, fits
from ..._old_members import new_values
from ..._ranges import SEED, Range, check_ranges
from ..._registry import Registry
from ...models import MODELS, ModelConfig, ViT
from ..data import DATA, Data
from ..networks import Pretrained  # noqa: F401 (registers a kind of model)
from ..tasks import TASKS, Classification, Task
from .reading import read_json, write_json

__all__ = ["Data", "Optim", "Recipe", "model_from_dict", "model_to_dict", "read_json", "register_named_networks", "write_json"]


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How weights move: by default AdamW under a cosine with warm-up."""

    ranges: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("lr", "clip_grad", "new_lr", "lr_of", "eps"), Range(above=0)),
        **dict.fromkeys(("min_lr", "warmup_lr", "weight_decay", "power"), Range(at_least=0)),
        **dict.fromkeys(("betas", "momentum", "warmup", "cooldown", "ema", "new_first"), Range(at_least=0, below=1)),
        "layer_decay": Range(above=0, at_most=1),
        **dict.fromkeys(("factor", "milestones"), Range(above=0, below=1)),
        "accumulate": Range(at_least=1),
    }

    lr: float = 1e-3
    """Highest learning rate."""
    min_lr: float = 1e-5
    """Learning rate at the end."""
    weight_decay: float = 0.05
    """Decoupled weight decay; of sgd and adam an L2 penalty."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW, Adam and LAMB."""
    eps: float | None = None
    """Added to the divisor of AdamW, Adam and LAMB; PyTorch's and timm's own if None."""
    optimizer: Literal["adamw", "adam", "lamb", "sgd"] = "adamw"
    """Which optimizer."""
    momentum: float = 0.9
    """Of ``sgd``."""
    nesterov: bool = False
    """Whether ``sgd`` looks ahead."""
    decay_all: bool = False
    """Decay biases, norms, positions and scalars too, and not the matrices alone."""
    schedule: Literal["cosine", "poly", "steps", "constant"] = "cosine"
    """``poly`` falls as (1 − step / steps)^power, ``steps`` by ``factor`` at each milestone, ``constant`` never."""
    power: float = 0.9
    """Of the schedule poly."""
    milestones: tuple[float, ...] = ()
    """Shares of the steps."""
    factor: float = 0.1
    """Of ``steps``."""
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises."""
    warmup_lr: float | None = None
    """Where it rises from; ``min_lr`` if None."""
    cooldown: float = 0.0
    """Share of the steps, at the end, that a cosine stays at ``min_lr``."""
    clip_grad: float | None = 1.0
    """Largest norm of the gradient."""
    accumulate: int = 1
    """Micro-batches of a step, for batches that do not fit at once."""
    ema: float | None = None
    """Decay of an average of the weights, which is then evaluated and kept beside them."""
    layer_decay: float | None = None
    """Each layer of a pretrained network learns at the rate of the one behind it times this (Clark et al. 2020, arXiv 2003.10555; timm's groups)."""
    new_lr: float | None = None
    """Highest learning rate of what is new in a pretrained network: its head and what a conversion brought; lr if None."""
    new_first: float = 0.0
    """Share of the steps, at the start, in which only what is new learns."""
    lr_of: dict[str, float] = field(default_factory=dict)
    """Highest learning rate of parameters by name, as ``*probes.*``: the first pattern that fits counts; what fits none learns as the settings above say.
    A pattern that fits nothing is an error; in a comparison it fits something in one variant at least, and it is said which ones learn without it."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run."""

    ranges: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("steps", "batch_size", "eval_every", "checkpoint_every", "repeats", "patience"), Range(at_least=1)),
        "workers": Range(at_least=0),
        "seed": SEED,
    }

    data: Data
    """What is trained on."""
    model: ModelConfig = field(default_factory=ViT)
    """The network."""
    task: Task = field(default_factory=Classification)
    """Loss and metrics."""
    optim: Optim = field(default_factory=Optim)
    """Optimizer and schedule."""
    steps: int = 500
    """Training steps, each of one batch."""
    batch_size: int = 64
    """Images of a step, over all processes and micro-batches."""
    eval_every: int = 50
    """Steps between evaluations on the validation split."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    repeats: int = 1
    """Every sample comes so many times in a row, each time drawn anew, which is called repeated augmentation."""
    patience: int | None = None
    """Training ends after so many evaluations in a row that were no better than the best, and the best weights are the result; it never does if None."""
    seed: int = 0
    """Decides initial weights, data order, augmentation and dropout."""
    share_initial_weights: bool = False
    """Start from the weights that softmax attention would start from, wherever it has the same."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """no trains in float32; bf16 and fp16 in mixed precision."""
    compile: bool = False
    """Steps go through torch.compile: the first takes a minute or so, the others less. Evaluation does not."""
    channels_last: bool = False
    """Images and weights of convolutions lie with their channels last in memory, which suits convolutional networks on CUDA."""
    tf32: bool | None = None
    """Products of float32 matrices in TF32, on CUDA; yes there and no elsewhere if None. Evaluation stays in float32."""
    fused: bool | None = None
    """PyTorch's fused optimizer; yes on CUDA and no elsewhere if None. LAMB has none."""
    fsdp: bool = False
    """Of several processes each keeps a piece of weights, gradients and the optimizer's state, and not all of them (PyTorch's FSDP2)."""
    workers: int = 0
    """Processes that read data; 0 reads in the training process, best for sets that lie in memory."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """``tensorboard``, ``wandb`` or any other that accelerate knows."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.data.targets == self.model.targets == self.task.targets:
            parts = ", ".join(f"{type(part).__name__} has {part.targets}" for part in (self.data, self.model, self.task))
            raise InputError(f"data, model and task must be made for the same targets, but {parts}")
        self._check_network()
        if self.patience is not None and not self.task.primary_metric.ranks:
            raise InputError(f"patience keeps the best evaluation, and {self.task.primary_metric.label} does not say which is better; leave patience out")
        if self.batch_size % self.optim.accumulate:
            raise InputError(f"accumulate must divide batch_size, got {self.optim.accumulate} and {self.batch_size}")
        if not 0 <= self.optim.cooldown < 1 - self.optim.warmup or (self.optim.cooldown and self.optim.schedule != "cosine"):
            raise InputError(f"a cooldown is a share of a cosine's steps, less than the warm-up leaves, got {self.optim.cooldown}")
        if self.optim.nesterov and self.optim.optimizer != "sgd":
            raise InputError(f"nesterov is of sgd alone, got optimizer {self.optim.optimizer}")
        if self.optim.eps is not None and self.optim.optimizer == "sgd":
            raise InputError(f"eps is of adamw, adam and lamb, got optimizer {self.optim.optimizer}; leave it out")
        if self.fused and self.optim.optimizer == "lamb":
            raise InputError("LAMB has no fused form; leave fused out, or choose another optimizer")
        if (self.optim.schedule == "steps") != bool(self.optim.milestones):
            raise InputError(f"milestones are shares between 0 and 1, of the schedule steps and of no other, got {self.optim.milestones}")

    def _check_network(self) -> None:
        """Tasks that share their targets may train networks of different kinds."""
        wanted, got = self.task.trains, self.model.trained_as
        if wanted and got and wanted != got:
            models = ", ".join(name for name, kind in MODELS.items() if kind.trained_as == wanted)
            tasks = ", ".join(name for name, kind in TASKS.items() if kind.trains == got)
            raise InputError(
                f"{type(self.task).__name__} trains {wanted}, and {type(self.model).__name__} is {got}; take a model out of {models}, or the task {tasks}"
            )

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = asdict(self)
        values["data"] = _tagged(self.data)
        # recipes of before there were other kinds name none, and must stay what they were
        values["model"] = model_to_dict(self.model)
        values["task"] = _tagged(self.task, unless=Classification)
        return json.loads(json.dumps(values, default=str))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: a field that no recipe has, a value of the wrong type, or no data.
        """
        values = dict(_object("recipe", values))
        values["data"] = _of_kind(DATA, "data", values.get("data") or {})
        values["model"] = model_from_dict(values.get("model", {}))
        values["task"] = _of_kind(TASKS, "task", values.get("task", {}), Classification)
        values["optim"] = _read(Optim, _object("optim", values.get("optim", {})))
        return _read(cls, values)


def model_to_dict(model: ModelConfig) -> dict[str, Any]:
    """A model's settings, with the name of its kind unless that is the vision transformer."""
    return _tagged(model, unless=ViT)


def model_from_dict(values: dict[str, Any]) -> ModelConfig:
    """The inverse of :func:`model_to_dict`.

    Raises:
        ValueError: an unknown kind or field, or a value of the wrong type.
    """
    if isinstance(values, dict) and str(values.get("kind", ViT.__name__)) not in MODELS:
        # those of timm's registry are kinds once our networks are in it, which is only for those who ask
        from ... import timm as _  # noqa: F401
    return _of_kind(MODELS, "model", values, ViT)


def register_named_networks(model: ModelConfig) -> None:
    """Enter our published networks in timm's registry, if a setting of the model names one, as ``backbone="timm:fov_halonet26t"`` does."""
    if re.search(r"\bfov_|\btest_fov_", json.dumps(model_to_dict(model), default=str)):
        from ... import timm as _  # noqa: F401


def _tagged(part: Any, unless: type | None = None) -> dict[str, Any]:
    values: dict[str, Any] = asdict(part)
    return values if type(part) is unless else {"kind": type(part).__name__, **values}


def _of_kind(kinds: Registry[Any], what: str, values: Any, default: type | None = None) -> Any:
    values = dict(_object(what, values))
    name = values.pop("kind", None if default is None else default.__name__)
    return _read(kinds[str(name)], values)


def _read(cls: type, values: dict[str, Any]) -> Any:
    assert is_dataclass(cls), f"{cls} is no dataclass"
    known = {item.name: item for item in fields(cls)}
    converted = {}
    for name, value in new_values(cls, values).items():
        if name not in known:
            raise unknown(f"field of {cls.__name__}", name, known)
        # JSON has no tuples and no paths
        value = tuple(value) if isinstance(value, list) else value
        value = Path(value) if isinstance(value, str) and _is_path(known[name].type) else value
        if not fits(value, known[name].type):
            raise InputError(f"{name} of {cls.__name__} must be {described(known[name].type)}, got {value!r}")
        converted[name] = value
    try:
        return cls(**converted)
    except TypeError as error:
        raise InputError(f"cannot make a {cls.__name__} of {values!r}: {error}") from error


def _is_path(kind: Any) -> bool:
    return kind is Path or (get_origin(kind) in (Union, UnionType) and set(get_args(kind)) == {Path, type(None)})


def _object(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"expected {what} to be a JSON object with named fields, got {value!r}")
    return value
