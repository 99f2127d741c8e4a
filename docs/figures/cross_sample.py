"""Cross-sample attention: a scene as its own patches give it back, and as a dictionary does."""

import torch
import torch.nn.functional as F
from einops import rearrange
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from torch import Tensor

from foveal.functional import cross_sample_attention

from ._style import figure, panels, scene, show_image

SIDE, ENTRIES, OTHERS = 6, 25, range(2, 40)
SELECTIVE = 30.0


@figure
def cross_sample() -> Figure:
    """Queries, keys and values are patches. The nearer two are, the more the one takes of the other."""
    tokens = _cut(scene())
    others = torch.cat([_cut(scene(index)) for index in OTHERS])
    entries = torch.tensor(KMeans(ENTRIES, n_init=1, random_state=0).fit(others.numpy()).cluster_centers_)
    entries = entries[entries.sum(-1).argsort()]
    itself = torch.eye(len(tokens), dtype=torch.bool)
    own, cross = cross_sample_attention(
        _queries(tokens), _keys(tokens), tokens[None, None], dictionary_k=_keys(entries), dictionary_v=entries[None, None], mask=~itself, scale=SELECTIVE
    )
    sheet = F.pad(entries.unflatten(-1, (SIDE, SIDE)), (1, 1, 1, 1), value=0.55)
    drawing, axes = panels(1, 4)
    show_image(axes[0, 0], scene(), "a scene")
    show_image(axes[0, 1], rearrange(sheet, "(n m) y x -> (n y) (m x)", m=5), "the dictionary")
    show_image(axes[0, 2], _join(own[0, 0]), "in-sample")
    show_image(axes[0, 3], _join(cross[0, 0]), "cross-sample")
    return drawing


def _cut(image: Tensor) -> Tensor:
    return F.unfold(image[None, None], SIDE, stride=SIDE)[0].mT


def _join(patches: Tensor) -> Tensor:
    side = scene().shape[-1]
    return F.fold(patches.mT[None], (side, side), SIDE, stride=SIDE)[0, 0].clamp(0, 1)


def _queries(x: Tensor) -> Tensor:
    """With :func:`_keys`: products that are minus half the squared distance, but for what is equal in a row."""
    return torch.cat([x, torch.ones(len(x), 1)], dim=-1)[None, None]


def _keys(x: Tensor) -> Tensor:
    return torch.cat([x, -x.square().sum(-1, keepdim=True) / 2], dim=-1)[None, None]
