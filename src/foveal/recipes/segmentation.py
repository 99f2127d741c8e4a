"""Semantic segmentation.

flag_swap   foveal train flag-swap
            two CPU cores, about a minute; with external attention nearly all pixels are right, without attention every second label
"""

from ..data import FlagSwap
from ..models import SmallFCN
from ..tasks import Segmentation
from ..training import Optim, Recipe
from ._registry import recipe

__all__ = ["flag_swap"]


@recipe
def flag_swap() -> Recipe:
    """Two shapes whose labels a far flag exchanges: segmentation that needs the whole image."""
    return Recipe(
        data=FlagSwap(),
        model=SmallFCN(attention="external_2d", options={"slots": 16}),
        task=Segmentation(),
        optim=Optim(lr=5e-3, weight_decay=1e-4),
        steps=500,
        batch_size=32,
    )
