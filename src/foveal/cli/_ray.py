"""Options of commands whose runs may go to the machines of a Ray cluster."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import tyro

from .._errors import InputError, require

if TYPE_CHECKING:
    from ..lab.compare.cluster import Cluster

__all__ = ["RayOptions", "with_address"]

_ANY = "here"
"""The address of ``--ray`` alone."""


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where runs go."""

    ray: Annotated[str | None, tyro.conf.arg(metavar="[ADDRESS]")] = None
    """Do the runs on a Ray cluster, HOST:6379 or auto. --ray alone takes the cluster of RAY_ADDRESS or of this machine, and starts one on this machine where
    there is none. --out must be a folder that all machines share."""
    gpus_per_run: float | None = None
    """With --ray, GPUs of each run, such as 0.25; if not given one where the cluster has any."""

    def cluster(self) -> "Cluster | None":
        """The cluster; None where runs stay on this machine.

        Raises:
            ValueError: Ray is not installed; ``--gpus-per-run`` without ``--ray``, or one that no GPU can be divided by.
        """
        if self.ray is None:
            if self.gpus_per_run is not None:
                raise InputError("--gpus-per-run is for runs on a cluster; give --ray too, or leave it out")
            return None
        require("--ray", ("ray",))
        from ..lab.compare.cluster import Cluster

        return Cluster(None if self.ray == _ANY else self.ray, self.gpus_per_run)


def with_address(words: list[str]) -> list[str]:
    """``--ray`` may stand alone, and every option takes a value."""
    out = []
    for word, following in pairwise([*words, "--"]):
        out.append(word)
        if word == "--ray" and following.startswith("--"):
            out.append(_ANY)
    return out
