"""Denoising diffusion: the network says what of an image is noise, and draws by taking it away step by step.

Papers     Ho et al., "Denoising Diffusion Probabilistic Models", 2020 (arXiv 2006.11239); cosine schedule: Nichol and Dhariwal, 2021 (arXiv 2102.09672);
           sampling (DDIM): Song et al., 2020 (arXiv 2010.02502); guidance by a class that is left out at times: Ho and Salimans, 2022 (arXiv 2207.12598)
           velocity: Salimans and Ho, 2022 (arXiv 2202.00512)
Formula    x_t = √ᾱ_t · x + √(1 − ᾱ_t) · ε;   loss = ‖target − network(x_t, t, class)‖², a mean over pixels; the target is the noise ε, the velocity
           √ᾱ_t · ε − √(1 − ᾱ_t) · x, or the image x
Noise and steps are those of diffusers' ``DDIMScheduler``.

Shapes     B batch, C channels, H height, W width
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from ..._errors import InputError, require, unknown
from ..._ranges import Range
from ...analysis import cost
from ...attention import Cost
from ..data import DataBundle, seed_of
from ._generation import Generation, size_of
from ._generation_interpolations import draw_interpolations
from ._generation_nearest import draw_nearest
from ._generation_quality import draw_quality
from ._generation_report import draw_curves, draw_samples
from ._task import Metrics, PrimaryMetric, register_task

__all__ = ["Diffusion"]

PredictionType = Literal["epsilon", "v_prediction", "sample"]
_PARTS = 4
"""Equal parts of the timesteps, in each of which a judged image has one."""
_AT_ONCE = 100
"""Images that are drawn together."""
_PAIRS = 10
"""Noises between which images are drawn."""


@register_task
@dataclass(frozen=True, kw_only=True)
class Diffusion(Generation):
    """Prediction of the noise. Runs are judged by its squared error on images of the split, each at four timesteps under noises that follow from its pixels,
    the same in every run and whatever the batch is. The noise has variance 1, so to answer nothing at all has an error of 1.
    """

    trains: ClassVar[str] = "a denoiser"
    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric(
        "noise_mse", "error of the predicted noise", larger_is_better=False, scale=1.0, unit="MSE", step="MSE", decimals=4
    )
    report_needs: ClassVar[tuple[str, ...]] = ("matplotlib",)
    ranges: ClassVar[Mapping[str, Range]] = {
        "timesteps": Range(at_least=_PARTS, at_most=100_000),
        "class_drop": Range(at_least=0, below=1),
        "guidance": Range(at_least=0),
        "sampling_steps": Range(at_least=1),
    }

    timesteps: int = 1000
    """From an image to noise, by the cosine schedule."""
    class_drop: float = 0.1
    """Share of the training images whose class is hidden, so that guidance has an unconditional answer to go beyond."""
    guidance: float = 1.5
    """Of images drawn: 1 is the answer for the class, more goes on in its direction from the answer without class."""
    sampling_steps: int = 50
    """Steps of DDIM in which an image is drawn, at most as many as timesteps."""
    prediction_type: PredictionType = "epsilon"
    """What the network answers, by diffusers' names: the noise, the velocity, or the image. Where nearly all is noise, the noise says nothing of the image,
    so that a network which is trained shortly on epsilon draws no whole shapes. Runs are judged by the noise that follows, whichever it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_steps(self.sampling_steps, self.timesteps, "sampling_steps")
        if self.prediction_type not in get_args(PredictionType):
            raise unknown("prediction_type", self.prediction_type, get_args(PredictionType))

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        # asked before anything of a run is made
        require("the task Diffusion", ("diffusers",))
        return super().model_kwargs(bundle)

    def shards(self) -> bool:
        return True

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        images, labels = inputs
        noise = torch.randn_like(images)
        t = torch.randint(self.timesteps, (len(images),), device=images.device)
        hidden = torch.rand(len(images), device=images.device) < self.class_drop
        shown = torch.where(hidden, len(bundle.classes), labels)
        predicted = forward(_scheduler(self.timesteps).add_noise(images, noise, t), t, shown)
        return F.mse_loss(predicted.float(), self._target(images, noise, t)), {}

    def _target(self, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return noise
        return images if self.prediction_type == "sample" else _scheduler(self.timesteps).get_velocity(images, noise, t)

    def _noise(self, predicted: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The noise that an answer stands for."""
        if self.prediction_type == "epsilon":
            return predicted
        kept = _scheduler(self.timesteps).alphas_cumprod.to(noisy.device)[t][:, None, None, None]
        if self.prediction_type == "sample":
            return (noisy - kept.sqrt() * predicted) / (1 - kept).sqrt()
        return kept.sqrt() * predicted + (1 - kept).sqrt() * noisy

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """Squared errors ``(B, 4)``, one in each quarter of the timesteps."""
        images, labels = inputs
        noises, times = _judged_at(images, self.timesteps)
        errors = []
        for noise, t in zip(noises, times, strict=True):
            noisy = _scheduler(self.timesteps).add_noise(images, noise, t)
            predicted = self._noise(model(noisy, t, labels).float(), noisy, t)
            errors.append((predicted - noise).square().flatten(1).mean(1))
        return torch.stack(errors, 1)

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """``noise_mse``, and the same by quarters of the timesteps: ``noise_mse_1`` has the least noise."""
        names = ["noise_mse", *(f"noise_mse_{part}" for part in range(1, _PARTS + 1))]
        return MetricCollection({name: MeanMetric() for name in names}, compute_groups=False)

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        metrics["noise_mse"].update(outputs.mean(1))
        for part in range(_PARTS):
            metrics[f"noise_mse_{part + 1}"].update(outputs[:, part])

    def per_sample(self, outputs: Any, targets: Any) -> Tensor | None:
        return outputs.mean(1)

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Of one call for one image; drawing one takes ``sampling_steps`` of them, and with guidance twice as many."""
        t = torch.zeros(1, dtype=torch.long, device="meta")
        return cost(model, (bundle.in_chans, *size_of(bundle)), t, t)

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
        """By DDIM without further noise. Image i begins from noise of ``seed`` and i, so that it is the same among others.

        Raises:
            ValueError: a class that is not there, no steps or more than timesteps, guidance below 0 or of what has no classes; a truncation or a scale of
                latents, which the noise that an image begins from is not: at other sizes than it was trained with, a denoiser answers nothing of use.
        """
        if truncation is not None or latent_scale is not None:
            raise InputError("diffusion begins from noise of one size and has no latents to truncate or to scale; leave both out, and set guidance")
        return self.draw_from(model, bundle, self.latents(bundle, len(labels), seed=seed), labels, guidance=guidance, steps=steps)

    def latents(self, bundle: DataBundle, count: int, *, seed: int = 0) -> Tensor:
        """The noises ``(n, C, H, W)`` that :meth:`sample` begins from."""
        shape = (bundle.in_chans, *size_of(bundle))
        noises = [torch.randn(shape, generator=torch.Generator().manual_seed(seed_of(seed, "sample", place))) for place in range(count)]
        return torch.stack(noises) if noises else torch.empty(0, *shape)

    @torch.no_grad()
    def draw_from(
        self, model: nn.Module, bundle: DataBundle, latents: Tensor, labels: Sequence[int], *, guidance: float | None = None, steps: int | None = None
    ) -> Tensor:
        """Images ``(n, C, H, W)`` out of noises ``(n, C, H, W)``, as :meth:`sample` draws them.

        Raises:
            ValueError: as there.
        """
        steps, guidance = self.sampling_steps if steps is None else steps, self.guidance if guidance is None or not bundle.classes else guidance
        _check_steps(steps, self.timesteps, "steps")
        if guidance < 0:
            raise InputError(f"guidance must be at least 0, got {guidance}; 1 is the plain answer for the class")
        known = max(len(bundle.classes), 1)
        if any(not 0 <= label < known for label in labels):
            raise InputError(f"classes are numbers from 0 to {known - 1}, got {sorted(set(labels))}")
        device, drawn = next(model.parameters()).device, [latents[:0]]
        for first in range(0, len(labels), _AT_ONCE):
            some = torch.tensor(labels[first : first + _AT_ONCE])
            x = latents[first : first + _AT_ONCE].to(device)
            some = some.to(device) if bundle.classes else torch.zeros_like(some, device=device)
            scheduler = _new_scheduler(self.timesteps, self.prediction_type)
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps.tolist():
                answer = _guided(model, x, t, some, len(bundle.classes), guidance)
                # what is left of an image at the first steps is so little that the noise that is taken away must be that of the clipped image
                x = scheduler.step(answer, t, x, use_clipped_model_output=True).prev_sample
            drawn.append(x.cpu())
        return torch.cat(drawn)

    def write_report(self, model: nn.Module, bundle: DataBundle, metrics: Metrics, folder: Path) -> list[Path]:
        """``samples.png``, ``interpolations.png``, ``nearest.png``; ``quality.png`` where drawn images were judged, ``curves.png`` where there is a history."""
        network = self.feature_network(model, bundle, folder.parent)
        return [
            draw_samples(lambda labels: self.sample(model, bundle, labels), bundle, folder, about=self._about(bundle)),
            draw_interpolations(
                lambda latents, labels: self.draw_from(model, bundle, latents, labels), self.latents(bundle, _PAIRS, seed=3), bundle.classes, folder
            ),
            draw_nearest(lambda labels: self.sample(model, bundle, labels, seed=1), bundle, folder, network),
            *draw_quality(metrics, folder, "" if network is None else network.distance_name),
            *draw_curves(folder, self.primary_metric),
        ]

    def _about(self, bundle: DataBundle) -> str:
        return f"DDIM, {self.sampling_steps} steps" + (f", guidance {self.guidance:g}" if bundle.classes else "")


def _guided(model: nn.Module, x: Tensor, t: int, labels: Tensor, classes: int, guidance: float) -> Tensor:
    """The answer without class, and ``guidance`` times as far from it as the answer for the class."""
    times = torch.full((len(x),), t, device=x.device)
    if not classes or guidance == 1:
        return model(x, times, labels)
    without = torch.full_like(labels, classes)
    plain, own = model(torch.cat([x, x]), torch.cat([times, times]), torch.cat([without, labels])).chunk(2)
    return plain + guidance * (own - plain)


def _check_steps(steps: int, timesteps: int, name: str) -> None:
    if not 1 <= steps <= timesteps:
        raise InputError(f"{name} must be at least 1 and at most the {timesteps} timesteps of training, got {steps}")


def _new_scheduler(timesteps: int, prediction_type: PredictionType = "epsilon") -> Any:
    require("the task Diffusion", ("diffusers",))
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    # trailing: sampling begins at the last timestep, which is all noise, as the first draws of noise are
    return DDIMScheduler(num_train_timesteps=timesteps, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing", prediction_type=prediction_type)


@lru_cache(maxsize=4)
def _scheduler(timesteps: int) -> Any:
    """To add noise with; what draws has one of its own, which counts steps."""
    return _new_scheduler(timesteps)


def _judged_at(images: Tensor, timesteps: int) -> tuple[Tensor, Tensor]:
    """Noises ``(4, B, C, H, W)`` and timesteps ``(4, B)``: of each image one in every quarter, decided by its pixels."""
    noises, times = [], []
    for image in images.detach().float().cpu():
        seed = seed_of("judged", hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest())
        generator = torch.Generator().manual_seed(seed)
        noises.append(torch.randn((_PARTS, *image.shape), generator=generator))
        share = (torch.rand(_PARTS, generator=generator, dtype=torch.float64) + torch.arange(_PARTS)) / _PARTS
        times.append((share * timesteps).long())
    return torch.stack(noises, 1).to(images.device), torch.stack(times, 1).to(images.device)
