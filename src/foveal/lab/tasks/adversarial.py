"""Adversarial training: a generator that draws, and a discriminator that tells drawn images from real ones, each taught by the other.

Papers     Goodfellow et al. 2014 (arXiv 1406.2661); hinge loss: Lim and Ye 2017 (arXiv 1705.02894); the recipe: Zhang et al., SAGAN, 2018 (arXiv 1805.08318)
Official   POSTECH-CVLab/PyTorch-StudioGAN of May 2021
Formula    D: mean ReLU(1 − D(x)) + mean ReLU(1 + D(G(z)));  G: −mean D(G(z))

Shapes     B batch, C channels, H height, W width
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MaxMetric, MeanMetric, MetricCollection

from ..._errors import InputError, unknown
from ..._ranges import Range
from ...analysis import cost
from ...attention import Cost
from ...models.sagan import batch_statistics, gan_attention, power_iterate_, standing_statistics, strengths
from ..data import DataBundle
from ._adversarial_maps import draw_looks
from ._adversarial_report import draw_losses
from ._generation import Generation
from ._generation_interpolations import draw_interpolations
from ._generation_nearest import draw_nearest
from ._generation_quality import draw_quality
from ._generation_report import draw_samples
from ._latents import Latents
from ._phase import Phase
from ._task import Metrics, PrimaryMetric, register_task

__all__ = ["AdversarialGeneration"]

_AT_ONCE = 100
"""Images that are drawn together."""
_LOOKED_INTO = 6
"""Images beside one another on a sheet of maps."""
_PAIRS = 8
"""Latents between which images are drawn."""
_WON, _WON_STEPS = 0.05, 1000
"""A discriminator whose loss stays below this for so many steps teaches nothing any more."""
_SAME = 1e-3
"""Drawn images that differ nowhere by more than this are one image."""
_ABOUT = {
    "running": "batch norm with running statistics",
    "batch": "batch norm with statistics of each batch of drawn images",
    "standing": "batch norm with statistics of many drawn batches",
}


@register_task
@dataclass(frozen=True, kw_only=True)
class AdversarialGeneration(Generation):
    """A generator against a discriminator, by turns. A step of a run is one step of the generator, behind ``d_steps`` of the discriminator.

    Runs are judged by the discriminator's own hinge loss on images that it was not trained on and on drawn ones: 2 where it tells nothing apart, 0 where it
    tells all. **That is no measure of how good images look**, as each run has a discriminator of its own.
    """

    trains: ClassVar[str] = "a generator with its discriminator"
    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric(
        "hinge", "hinge loss of the discriminator", larger_is_better=True, scale=1.0, unit="hinge", step="hinge", decimals=3, ranks=False
    )
    train_metrics: ClassVar[tuple[str, ...]] = ("d_loss", "g_loss", "d_real", "d_fake")
    train_shares: ClassVar[bool] = False
    report_needs: ClassVar[tuple[str, ...]] = ("matplotlib",)
    ranges: ClassVar[Mapping[str, Range]] = {"d_steps": Range(at_least=1), "d_lr": Range(above=0), "standing_batches": Range(at_least=1)}

    d_steps: int = 1
    """Steps of the discriminator before each of the generator, each with a batch of its own."""
    d_lr: float | None = None
    """Learning rate of the discriminator; that of the recipe, which is the generator's, if None."""
    bn: Literal["running", "batch", "standing"] = "running"
    """Statistics of batch norm that images are drawn with: the running ones; those of the batch that is drawn, as StudioGAN evaluated, where an image depends
    on the others; or the mean of many batches drawn for the purpose."""
    standing_batches: int = 16
    """How many that are, of 64 images, for standing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bn not in _ABOUT:
            raise unknown("bn", self.bn, _ABOUT)

    def phases(self) -> tuple[Phase, ...]:
        own = {} if self.d_lr is None else {"lr": self.d_lr}
        return (Phase(name="D", parameters=("D.",), batches=self.d_steps, optim=own), Phase(name="G", parameters=("G.",), batches=0))

    def averaged(self) -> str:
        return "G."

    def settle_(self, average: nn.Module) -> None:
        power_iterate_(average.G, 2)  # type: ignore[arg-type]

    def trained(self, model: nn.Module) -> nn.Module:
        return _Adversaries(model)

    def step(  # type: ignore[override]
        self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle, phase: str
    ) -> tuple[Tensor, dict[str, Any]]:
        images, labels = inputs
        count = len(images)
        z = torch.randn(count, _width(model), device=images.device)
        kinds = len(bundle.classes)
        y = torch.randint(kinds, (count,), device=images.device) if kinds else None
        if phase == "G":
            loss = -forward("G", z, y).float().mean()
            return loss, {"g_loss": loss.detach() * count}
        real, fake = (scores.float() for scores in forward("D", z, y, images, labels if kinds else None))
        loss = _hinge(real, fake).mean()
        return loss, {"d_loss": loss.detach() * count, "d_real": real.detach().sum(), "d_fake": fake.detach().sum()}

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """Drawn images, one for each real one and of its class, and the scores of the real and the drawn.

        The latents of each follow from the pixels of the real one, so that they are the same in every run and whatever the batch is.
        """
        images, labels = inputs
        latents = Latents(_width(model))
        z = torch.stack([latents.draw("judged", hashlib.sha256(image.float().cpu().contiguous().numpy().tobytes()).hexdigest()) for image in images])
        y = labels if _kinds(model) else None
        drawn = self._drawing(model)(z.to(images.device), y)
        return drawn, model.D(images, y), model.D(drawn, y)  # type: ignore[operator]

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """``hinge``; ``d_real`` and ``d_fake``, mean scores; ``spread``, the largest difference of two drawn images in a pixel: 0 where all are one."""
        found = {"hinge": MeanMetric(), "d_real": MeanMetric(), "d_fake": MeanMetric(), "spread": MaxMetric()}
        return MetricCollection(found, compute_groups=False)  # type: ignore[arg-type]

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        drawn, real, fake = outputs
        metrics["hinge"].update(_hinge(real, fake))
        metrics["d_real"].update(real)
        metrics["d_fake"].update(fake)
        metrics["spread"].update((drawn.amax(0) - drawn.amin(0)).max())

    def per_sample(self, outputs: Any, targets: Any) -> Tensor | None:
        return _hinge(*outputs[1:])

    def remarks(self, history: Sequence[Mapping[str, Any]]) -> list[str]:
        """That the discriminator has won, or that the generator draws one image alone, at the first step where it is so."""
        found, since, last = [], None, 0
        for line in history:
            if line["train_d_loss"] >= _WON:
                since = None
            elif since is None:
                since = last
            last = line["step"]
            if since is not None and last - since >= _WON_STEPS:
                found.append(
                    f"the loss of the discriminator was below {_WON} from step {since} to {last}: it has won, and the generator learns nothing from it"
                )
                break
        one = next((line["step"] for line in history if line["val_spread"] < _SAME), None)
        return found + ([] if one is None else [f"at step {one} all drawn images were one image: the generator has collapsed"])

    def watched(self, model: nn.Module) -> dict[str, float]:
        """See ``foveal.models.sagan.strengths``; of the networks that are judged, the generator's average where there is one."""
        return strengths(model)

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Multiply-adds of drawing one image; parameters of both networks."""
        y = torch.zeros(1, dtype=torch.long, device="meta") if _kinds(model) else None
        drawing = cost(_Squeezed(model.G), (1, _width(model)), *(() if y is None else (y,)))  # type: ignore[arg-type]
        return Cost(parameters=sum(p.numel() for p in model.parameters()), macs=drawing.macs)

    @torch.no_grad()
    def sample(
        self,
        model: nn.Module,
        bundle: DataBundle,
        labels: Sequence[int],
        *,
        seed: int = 0,
        guidance: float | None = None,
        steps: int | None = None,
        truncation: float | None = None,
        latent_scale: float | None = None,
    ) -> Tensor:
        """In one call of the generator. The latents of image i follow from ``seed`` and i; with ``bn="batch"`` the image depends on the others too.

        Raises:
            ValueError: a class that is not there; guidance or steps, which a generator has none of; a truncation or a scale not above 0 or not finite.
        """
        latents = Latents(_width(model), truncation, latent_scale)
        if guidance is not None or steps is not None:
            raise InputError("a generator draws in one call and for its class alone, so it has no guidance and no steps; leave them out")
        known = max(len(bundle.classes), 1)
        if any(not 0 <= label < known for label in labels):
            raise InputError(f"classes are numbers from 0 to {known - 1}, got {sorted(set(labels))}")
        z = [latents.draw(seed, "sample", place) for place in range(len(labels))]
        return self.decode(model, torch.stack(z) if z else torch.empty(0, latents.width), labels, latents)

    @torch.no_grad()
    def decode(self, model: nn.Module, z: Tensor, labels: Sequence[int], latents: Latents | None = None) -> Tensor:
        """Images of latents ``(n, Z)`` and classes, on the CPU; ``latents`` says how they were drawn, if not as in training."""
        device, draw, drawn = next(model.parameters()).device, self._drawing(model, latents), []
        for first in range(0, len(labels), _AT_ONCE):
            y = torch.tensor(labels[first : first + _AT_ONCE], device=device) if _kinds(model) else None
            drawn.append(draw(z[first : first + _AT_ONCE].to(device), y).cpu())
        return torch.cat(drawn) if drawn else torch.empty(0, *_shape(model))

    @torch.no_grad()
    def draw_attention(self, model: nn.Module, bundle: DataBundle, number: int, folder: Path, *, title: str) -> tuple[list[str], list[Path]]:
        """``attention.html`` of image ``number`` in the generator and in the discriminator, and ``maps.png`` of it and the next ones."""
        numbers, device, known = range(number, number + _LOOKED_INTO), next(model.parameters()).device, max(len(bundle.classes), 1)
        labels = torch.tensor([place % known for place in numbers], device=device)
        y = labels if _kinds(model) else None
        z = torch.stack([Latents(_width(model)).draw(0, "sample", place) for place in numbers]).to(device)
        generator = self._generator(model)
        with batch_statistics(generator) if self.bn == "batch" else nullcontext():
            images, own = gan_attention(generator, z, y)
        scores, judging = gan_attention(model.D, images, y)  # type: ignore[arg-type]
        said = [f"image {at}" + (f", class {bundle.classes[label]}" if bundle.classes else "") for at, label in zip(numbers, labels.tolist(), strict=True)]
        networks = {"generator": own, "discriminator": judging}
        files = draw_looks(images, said, networks, folder, title=title)
        places = [f"{name}, {look.name}: σ {look.sigma:.4g}" for name, looks in networks.items() for look in looks]
        return [f"drawn {said[0]}; the discriminator gives it {scores[0]:.3f}", *places, *filter(None, [self.note()])], files

    def note(self) -> str:
        return "with task.bn=batch an image depends on the others that are drawn with it, up to 100 at once" if self.bn == "batch" else ""

    def write_report(self, model: nn.Module, bundle: DataBundle, metrics: Metrics, folder: Path) -> list[Path]:
        """``samples.png``, ``nearest.png``, ``interpolations.png``; ``quality.png`` where drawn images were judged, ``curves.png`` where there is a history."""
        network = self.feature_network(model, bundle, folder.parent)
        return [
            draw_samples(lambda labels: self.sample(model, bundle, labels), bundle, folder, about=_ABOUT[self.bn]),
            draw_nearest(lambda labels: self.sample(model, bundle, labels, seed=1), bundle, folder, network),
            draw_interpolations(
                lambda z, labels: self.decode(model, z, labels),
                torch.stack([Latents(_width(model)).draw("interpolation", place) for place in range(_PAIRS)]),
                bundle.classes,
                folder,
            ),
            *draw_quality(metrics, folder, "" if network is None else network.distance_name),
            *draw_losses(folder),
        ]

    def _drawing(self, model: Any, latents: Latents | None = None) -> Callable[[Tensor, Tensor | None], Tensor]:
        """The generator, with the statistics that images are drawn with."""
        generator = self._generator(model, latents)

        def by_batch(z: Tensor, y: Tensor | None) -> Tensor:
            with batch_statistics(generator):
                return generator(z, y)

        return by_batch if self.bn == "batch" else generator

    def _generator(self, model: Any, latents: Latents | None = None) -> nn.Module:
        if self.bn == "standing":
            # statistics of such images as are drawn, as BigGAN has them for each truncation
            kinds, such = _kinds(model), latents or Latents(_width(model))

            def draw(generator: nn.Module, number: int) -> Tensor:
                device = next(generator.parameters()).device
                z = torch.stack([such.draw("standing", number, place) for place in range(64)]).to(device)
                return generator(z, torch.arange(number * 64, (number + 1) * 64, device=device) % kinds if kinds else None)

            return standing_statistics(model.G, draw, self.standing_batches)
        return model.G


class _Adversaries(nn.Module):
    """All forward passes of a phase in one call, which is how processes share gradients: one each for drawn and real images, as officially."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, phase: str, z: Tensor, y: Tensor | None, images: Tensor | None = None, labels: Tensor | None = None) -> Any:
        if phase == "G":
            return self.model.D(self.model.G(z, y), y)
        with torch.no_grad():
            drawn = self.model.G(z, y)
        return self.model.D(images, labels), self.model.D(drawn, y)


class _Squeezed(nn.Module):
    """The generator for whoever gives a batch of ``(1, Z)``."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.generator(z[:, 0], y)


def _hinge(real: Tensor, fake: Tensor) -> Tensor:
    """``(B,)``."""
    return F.relu(1 - real.float()) + F.relu(1 + fake.float())


def _width(model: Any) -> int:
    return int(model.G.z_dim)


def _kinds(model: Any) -> int:
    return int(model.G.num_classes)


def _shape(model: Any) -> tuple[int, int, int]:
    side = 4 * 2 ** len(model.G.blocks)
    return model.D.in_chans, side, side
