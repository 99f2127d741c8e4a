"""Generalized IoU as a loss (Rezatofighi et al. 2019, arXiv 1902.09630), box by box.

torchvision's ``generalized_box_iou_loss`` gives the same, to the last bit, but picks overlapping boxes by a mask, for which the host must wait for the device.
"""

import torch
from torch import Tensor

__all__ = ["giou_loss"]

_EPS = 1e-7


def giou_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """``1 − GIoU`` of each of two lists of boxes ``(n, 4)``, left, top, right, bottom; ``(n,)``, between 0 and 2."""
    left, top, right, bottom = found.unbind(-1)
    left_w, top_w, right_w, bottom_w = wanted.unbind(-1)
    near_left, near_top = torch.max(left, left_w), torch.max(top, top_w)
    near_right, near_bottom = torch.min(right, right_w), torch.min(bottom, bottom_w)
    overlap = torch.where((near_bottom > near_top) & (near_right > near_left), (near_right - near_left) * (near_bottom - near_top), 0.0)
    union = (right - left) * (bottom - top) + (right_w - left_w) * (bottom_w - top_w) - overlap
    around = (torch.max(right, right_w) - torch.min(left, left_w)) * (torch.max(bottom, bottom_w) - torch.min(top, top_w))
    return 1 - (overlap / (union + _EPS) - (around - union) / (around + _EPS))
