"""What the two parts of the pretrained page share: the images of a seed, the probe, what is measured of a network, and the brief tuning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.lab.data import Cutouts

SIDE, BATCH = 56, 4
CALIBRATION_BATCHES, CALIBRATION_STEPS, CALIBRATION_LR = 12, 100, 3e-4
CNN_SIDE, STAGE = 112, "blocks.4"
RIDGES = (0.1, 1.0, 10.0, 100.0)
TUNING_LRS = (1e-6, 1e-5, 1e-4)
NEW_LR = 1e-2
"""Of weights that an insertion brought, in the brief tuning."""
SEEDS = (3, 4, 5)
"""Test images of the splits 0, 1 and 2 had been looked at before settings were fixed."""
TUNING_STEPS, TUNING_BATCH = 12, 8
PARTS = ("train", "val", "test")

Head = tuple[Tensor, Tensor]


@dataclass
class Images:
    """Of one seed: the split by file, the unlabeled views to calibrate on and the views to tune on, both of training files."""

    side: int
    seed: int
    unlabeled_count: int = 0
    convert: Callable[[Tensor], Tensor] = lambda image: image
    """From what is standardized as for ImageNet to what the network was trained on."""
    parts: dict[str, tuple[Tensor, Tensor]] = field(init=False)
    unlabeled: Tensor = field(init=False)
    tuning: list[tuple[Tensor, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        bundle = Cutouts(img_size=self.side, views=1, seed=self.seed).load()
        self.parts = {name: self._taken(getattr(bundle, name), range(len(getattr(bundle, name)))) for name in PARTS}
        order = torch.randint(len(bundle.train), (self.unlabeled_count + TUNING_STEPS * TUNING_BATCH,)).tolist()
        self.unlabeled = self._taken(bundle.train, order[: self.unlabeled_count])[0] if self.unlabeled_count else torch.empty(0)
        rest = order[self.unlabeled_count :]
        self.tuning = [self._taken(bundle.train, rest[at : at + TUNING_BATCH]) for at in range(0, len(rest), TUNING_BATCH)]

    def _taken(self, split: Sequence[tuple[Tensor, int]], places: Sequence[int]) -> tuple[Tensor, Tensor]:
        images, labels = zip(*(split[index] for index in places), strict=True)
        return self.convert(torch.stack(images)), torch.tensor(labels)


@dataclass
class Kind:
    """How features are read off a network: what gives ``(B, N, C)``, and what pools them to ``(B, C)``."""

    features: Callable[[nn.Module, Tensor], Tensor]
    pool: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def all(self, model: nn.Module, images: Tensor) -> Tensor:
        return torch.cat([self.features(model, part) for part in images.split(32)])


def probe(features: Tensor, labels: Tensor, ridge: float) -> Head:
    """Ridge regression of the classes on standardized features, as weight and bias of a linear layer."""
    center, scale = features.mean(0), features.std(0) + 1e-6
    x = (features - center) / scale
    y = F.one_hot(labels, 10).float()
    weight = torch.linalg.solve(x.T @ x + ridge * len(x) * torch.eye(x.shape[1]), x.T @ (y - y.mean(0))).T / scale
    return weight, y.mean(0) - weight @ center


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).float().mean().item()


@dataclass
class Stage:
    """What is measured of a model on test images. ``drift`` and ``cosine`` compare all its features with those of the model as it was."""

    drift: float
    cosine: float
    accuracy: float


def moved(after: Tensor, before: Tensor) -> tuple[float, float]:
    return ((after - before).norm() / before.norm()).item(), F.cosine_similarity(after, before, dim=-1).mean().item()


def measured(kind: Kind, model: nn.Module, images: Images, before: Tensor, ridge: float) -> tuple[Stage, Head]:
    x, y = images.parts["train"]
    head = probe(kind.pool(kind.all(model, x)), y, ridge)
    x, y = images.parts["test"]
    after = kind.all(model, x)
    return Stage(*moved(after, before), accuracy(F.linear(kind.pool(after), *head), y)), head


def tune_(kind: Kind, model: nn.Module, images: Images, head: Head, lr: float, new: Sequence[nn.Parameter] = ()) -> nn.Linear:
    """Some steps on all weights, in place, from the probe on; gives the classifier."""
    classifier = nn.Linear(head[0].shape[1], 10)
    with torch.no_grad():
        # a probe that regresses gives small numbers; times ten they are logits
        classifier.weight.copy_(10 * head[0])
        classifier.bias.copy_(10 * head[1])
    own = {id(p) for p in new}
    groups = [{"params": [p for p in [*model.parameters(), *classifier.parameters()] if id(p) not in own]}]
    if new:
        groups.append({"params": list(new), "lr": NEW_LR})
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=0.01)
    for x, y in images.tuning:
        loss = F.cross_entropy(classifier(kind.pool(kind.features(model, x))), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier


def chosen_ridge(kind: Kind, model: nn.Module, images: Images) -> tuple[float, float]:
    """The ridge with the least squared error on validation images, and its accuracy there."""
    features = {name: kind.pool(kind.all(model, images.parts[name][0])) for name in ("train", "val")}
    truth = images.parts["val"][1]
    tried = []
    for ridge in RIDGES:
        logits = F.linear(features["val"], *probe(features["train"], images.parts["train"][1], ridge))
        tried.append((F.mse_loss(logits, F.one_hot(truth, 10).float()).item(), ridge, accuracy(logits, truth)))
    _, ridge, found = min(tried)
    return ridge, found


def validated(kind: Kind, model: nn.Module, images: Images, ridge: float, lr: float) -> tuple[float, float]:
    """Cross-entropy and accuracy on validation images after the brief tuning."""
    torch.manual_seed(images.seed)
    x, y = images.parts["train"]
    classifier = tune_(kind, model, images, probe(kind.pool(kind.all(model, x)), y, ridge), lr)
    x, y = images.parts["val"]
    with torch.no_grad():
        logits = classifier(kind.pool(kind.all(model, x)))
    return F.cross_entropy(logits, y).item(), accuracy(logits, y)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The mean, and lowest and highest where they differ."""
    low, high = min(values), max(values)
    return f"{mean(values):.{digits}f}" + ("" if f"{low:.{digits}f}" == f"{high:.{digits}f}" else f" ({low:.{digits}f} – {high:.{digits}f})")
