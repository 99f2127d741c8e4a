"""What is compared of CATT in any host: its second stream, and the controls without which a gain says nothing of the dictionary."""

from dataclasses import replace
from typing import Any

from .._config import Arm

__all__ = ["catt_arms"]


def catt_arms(config: Any) -> dict[str, Arm]:
    """Arms by name, for a configuration with ``catt``, ``share``, ``init`` and ``trainable``."""
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        "none": ("the host alone", {"catt": "none"}),
        "in-sample": ("a second stream that reads the sample once more, with weights of its own", {"catt": "in_sample"}),
        "skip": ("a second stream that reads nothing in self-attention", {"catt": "skip"}),
        "dictionary": ("CATT: a second stream that reads a dictionary, with the weights of the first", {"catt": "dictionary", "share": True, "init": "normal"}),
        "dictionary-own": ("CATT with weights of its own: as many as the second in-sample stream", {"catt": "dictionary", "share": False, "init": "normal"}),
        "dictionary-kmeans": ("CATT whose dictionaries start at clusters of training tokens", {"catt": "dictionary", "share": True, "init": "kmeans"}),
        "dictionary-frozen": ("CATT whose dictionaries are random and stay so", {"catt": "dictionary", "share": True, "init": "normal", "trainable": False}),
    }
    return {name: Arm(name, about, replace(config, **{"trainable": True, **change})) for name, (about, change) in changes.items()}
