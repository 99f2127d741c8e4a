"""ResNet-50 with one and with two efficient attentions in timm.

A plain ResNet-50 checkpoint starts one that is built with ``options={"gamma_init": 0.0}``: attention is fresh then, and not yet listened to.
"""

from collections.abc import Mapping
from typing import Any

from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from ..models import EfficientResNet
from ._register import Published, enter

__all__ = ["checkpoint_filter_fn"]

_CFG: dict[str, Any] = {
    "paper_ids": "arXiv:1812.01243",
    "paper_name": "Efficient Attention: Attention with Linear Complexities",
    "origin_url": "https://github.com/cmsflash/efficient-attention",
    "pool_size": (7, 7),
    "fixed_input_size": False,
    "first_conv": "conv1",
    "classifier": "fc",
}


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of this model, or of timm's ResNet where attention starts with a factor of zero and so changes nothing."""
    state = dict(state_dict.get("state_dict", state_dict))
    gammas = {name: value for name, value in model.state_dict().items() if name.endswith(".gamma")}
    if gammas and not gammas.keys() & state.keys() and not any(value.any() for value in gammas.values()):
        beginnings = tuple(name.removesuffix("gamma") for name in gammas)
        state |= {name: value for name, value in model.state_dict().items() if name.startswith(beginnings)}
    return state


_SOURCE = "Shen et al., WACV 2021, arXiv 1812.01243; accuracy as in the first author's article on the paper"

for _count, _after, _top1 in ((1, (2,), "76.932"), (2, (2, 3), "77.312")):
    enter(
        f"fov_resnet50_ea{_count}",
        EfficientResNet,
        module=__name__,
        published=Published(_SOURCE, result=f"{_top1} top-1; 76.052 without"),
        cfg=_CFG,
        filter_fn=checkpoint_filter_fn,
        after=_after,
    )
enter(
    "test_fov_resnet_ea",
    EfficientResNet,
    module=__name__,
    cfg=_CFG | {"input_size": (3, 32, 32), "num_classes": 10, "pool_size": (1, 1)},
    filter_fn=checkpoint_filter_fn,
    block=BasicBlock,
    layers=(1, 1, 1, 1),
    channels=(16, 24, 32, 40),
    after=(2, 3),
)
