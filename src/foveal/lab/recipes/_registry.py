"""Names of recipes: those of their functions."""

from collections.abc import Callable
from dataclasses import replace

from ..._registry import Registry
from ..training import Recipe

__all__ = ["get_recipe", "list_recipes", "recipe", "smoke"]

_RECIPES: Registry[Callable[..., Recipe]] = Registry("recipe")


def recipe(function: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """Enter a function that needs no arguments to make a recipe."""
    return _RECIPES.add(function.__name__.replace("_", "-"), function)


def list_recipes() -> dict[str, str]:
    """Names, and the first line of what each says of itself."""
    return {name: (_RECIPES[name].__doc__ or "").splitlines()[0] for name in _RECIPES}


def get_recipe(name: str) -> Recipe:
    """The recipe behind a name; underscores and hyphens are the same.

    Raises:
        ValueError: the name is unknown; the message lists near matches.
    """
    return _RECIPES[name.replace("_", "-")]()


_RATES: dict[str, tuple[float, float]] = {"adamw": (3e-3, 1e-2), "adam": (1e-3, 1e-2), "lamb": (5e-3, 1e-2), "sgd": (1e-2, 1e-2)}
"""Lowest and highest learning rate of a smoke, by optimizer. With gradients of norm 1 a small fresh network learns by the one within some steps and stands the
other; without, and at 0.02 of SGD, detectors with halo attention reach NaN."""


def smoke(recipe: Recipe, *, steps: int = 20, batch_size: int = 8) -> Recipe:
    """The same training in miniature: a small network of the same kind on a few samples that come inside a package, for seconds. A smoke test only.

    Optimizer, schedule, loss, augmentation, averaging and precision stay the recipe's, and micro-batches as far as the batch can be divided. A warm-up takes
    at least a quarter of the steps. The learning rate is one that belongs to a small fresh network and gradients are clipped: the recipe's belong to large
    batches, and often to pretrained networks. The samples are so few that the network begins to know them by heart, so that the loss on them falls. That it
    ends shows that the recipe runs, and that the loss falls that its parts work together; its numbers show nothing else.
    """
    # a share of so few steps is none, where the whole training has hundreds of steps to rise in
    warmup = max(recipe.optim.warmup, 0.25) if recipe.optim.warmup else 0.0
    accumulate = max(n for n in range(1, min(recipe.optim.accumulate, batch_size) + 1) if batch_size % n == 0)
    lowest, highest = _RATES[recipe.optim.optimizer]
    return replace(
        recipe,
        data=recipe.data.smoke_data(),
        model=recipe.model.smoke_model(),
        optim=replace(
            recipe.optim,
            accumulate=accumulate,
            warmup=warmup,
            lr=min(max(recipe.optim.lr, lowest), highest),
            clip_grad=recipe.optim.clip_grad or 1.0,
        ),
        steps=steps,
        batch_size=batch_size,
        eval_every=max(1, steps // 2),
        checkpoint_every=steps,
        workers=0,
        trackers=(),
    )
