"""The two linear maps between attentions, timm's, by the fastest way that the CPU has for them (``foveal/attention/_linear.py``)."""

from torch import Tensor

from .._errors import missing_extra
from ..attention._linear import project

try:
    from timm.layers import Mlp as _Mlp
except ImportError as error:
    raise missing_extra("timm", "timm", "foveal.models") from error

__all__ = ["Mlp"]


class Mlp(_Mlp):
    """timm's, name for name. A layer that is more than a plain linear map is called as it is."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.drop1(self.act(project(self.fc1, x))))
        return self.drop2(project(self.fc2, x))
