"""Looking and measuring: attention maps, rollout, principal angles, cost."""

from .angles import HeadAngles, chance_angles, lambdas, neighbor_angles, principal_angles, value_angles, value_overlap
from .cost import cost, latency, peak_memory
from .gradcam import reshape_transform_for, target_layers_for
from .layout import Layout, fold_to_grid, look_from, token_layout, upsample
from .maps import attention_maps, mass_on, patch_mask, summary_maps
from .rollout import gradient_rollout, rollout, rollout_of

__all__ = [
    "HeadAngles",
    "Layout",
    "attention_maps",
    "chance_angles",
    "cost",
    "fold_to_grid",
    "gradient_rollout",
    "lambdas",
    "latency",
    "look_from",
    "mass_on",
    "neighbor_angles",
    "patch_mask",
    "peak_memory",
    "principal_angles",
    "reshape_transform_for",
    "rollout",
    "rollout_of",
    "summary_maps",
    "target_layers_for",
    "token_layout",
    "upsample",
    "value_angles",
    "value_overlap",
]
