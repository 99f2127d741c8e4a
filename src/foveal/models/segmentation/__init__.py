"""Segmentation networks, each with any attention or none where its paper has one."""

from .dilated import DilatedNet, DilatedResNet
from .maresunet import MAResUNet, MultistageUNet
from .pooled import SmpConfig
from .small import SmallFCN, SmallNet

__all__ = ["DilatedNet", "DilatedResNet", "MAResUNet", "MultistageUNet", "SmallFCN", "SmallNet", "SmpConfig"]
