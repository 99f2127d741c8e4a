"""Recipes: functions that return a whole training run. A variant is another function that edits two fields."""

from ._registry import get_recipe, list_recipes, smoke
from .classification import cluttered_digits, digits, image_folder
from .detection import (
    coco_cascade_rcnn,
    coco_efficient,
    coco_faster_rcnn,
    coco_halo,
    coco_mask_rcnn,
    coco_retinanet,
    digit_detection,
    flag_detection,
    nuclei_detection,
)
from .segmentation import ade20k, brain, cityscapes, flag_swap, mask_folder, nuclei, vaihingen, voc
from .stereo import kitti_stereo, scene_flow, shift_stereo

__all__ = [
    "ade20k",
    "brain",
    "cityscapes",
    "cluttered_digits",
    "coco_cascade_rcnn",
    "coco_efficient",
    "coco_faster_rcnn",
    "coco_halo",
    "coco_mask_rcnn",
    "coco_retinanet",
    "digit_detection",
    "digits",
    "flag_detection",
    "flag_swap",
    "get_recipe",
    "image_folder",
    "kitti_stereo",
    "list_recipes",
    "mask_folder",
    "nuclei",
    "nuclei_detection",
    "scene_flow",
    "shift_stereo",
    "smoke",
    "vaihingen",
    "voc",
]
