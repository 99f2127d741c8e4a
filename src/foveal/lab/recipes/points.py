"""Point clouds with PCT.

solids        foveal train solids
              two CPU cores, minutes; which of six solids a cloud is
solid_pairs   foveal train solid-pairs
              two CPU cores, minutes; the kind of a point's own solid and whether its neighbor is round. Without a meeting of points the second half is
              unknowable, and so half of the answers wrong
"""

from ...models.points import PointTransformer, PointwiseParts
from ..data import SolidPairs, Solids
from ..tasks import PartSegmentation, PointClassification
from ..training import Optim, Recipe
from ._registry import recipe

__all__ = ["solid_pairs", "solids"]


@recipe
def solids() -> Recipe:
    """Which of six solids a cloud of points is."""
    return Recipe(
        data=Solids(num_points=128),
        model=PointTransformer(attention="external", width=16, npoints=(64, 32), neighbors=8),
        task=PointClassification(label_smoothing=0.1),
        optim=Optim(lr=3e-3),
        batch_size=32,
        steps=400,
        eval_every=100,
        checkpoint_every=200,
    )


@recipe
def solid_pairs() -> Recipe:
    """Two solids side by side: each point must know its own and the other."""
    return Recipe(
        data=SolidPairs(),
        model=PointwiseParts(attention="external", options={"slots": 16}),
        task=PartSegmentation(judged_by="accuracy"),
        optim=Optim(lr=3e-3),
        batch_size=16,
        steps=2000,
        eval_every=200,
        checkpoint_every=500,
    )
