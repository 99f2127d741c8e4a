"""Two squares of one color at the ends of a strip, drawn by diffusion: only where patches meet can one square know of the other."""

from functools import lru_cache

import torch
from sklearn.metrics import cohen_kappa_score
from torch import Tensor

from foveal.lab.data import ColorMatch, DataBundle, seed_of
from foveal.lab.tasks import Diffusion
from foveal.models import DiT

STEPS, BATCH, LR, DRAWN = 1500, 64, 2e-3, 1000
FRESH = 1000
"""Added to each seed, of strips and of weights."""
TASK = Diffusion(sampling_steps=25)
MODEL = DiT(width=48, depth=3, num_heads=6, patch_size=2)


@lru_cache(maxsize=1)
def strips(seed: int) -> tuple[ColorMatch, DataBundle, Tensor]:
    data = ColorMatch(seed=FRESH + seed)
    bundle = data.load()
    return data, bundle, torch.stack([bundle.train[n][0] for n in range(len(bundle.train))])


def agreement(colors: Tensor) -> float:
    """Cohen's κ of the colors of the two halves, ``(n, 2)``: 1 where they always match, 0 where they match as often as independent ones with these shares."""
    return float(cohen_kappa_score(colors[:, 0].numpy(), colors[:, 1].numpy()))


def draw(seed: int, attention: str, steps: int = STEPS) -> Tensor:
    """Colors of the two halves of drawn strips, ``(DRAWN, 2)``, by the mean of the weights over the last quarter of the training."""
    data, bundle, images = strips(seed)
    torch.manual_seed(FRESH + seed)
    generator = torch.Generator().manual_seed(FRESH + seed)
    model = MODEL.arms()[attention].model.build(**TASK.model_kwargs(bundle))
    mean = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    labels = torch.zeros(BATCH, dtype=torch.long)
    for step in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        loss, _ = TASK.step(model, model, (images[chosen], labels), labels, bundle)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step >= steps * 3 // 4:
            mean.update_parameters(model)
    drawn = TASK.sample(mean.module.eval(), bundle, [0] * DRAWN, seed=seed_of(FRESH, seed))
    return data.colors_of(drawn)
