"""Runs on the machines of a Ray cluster: a task of Ray's for each, and a folder that all of them see.

What a run leaves, it leaves in its folder as ever, so that nothing but a line of text goes through Ray. A run whose worker is lost, with its machine or alone,
is started again by Ray wherever there is room, and goes on from its own newest checkpoint.
"""

import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..._errors import InputError, require
from ..._extensions import VARIABLE, load_extensions
from ..training import Interrupted
from .workers import keep_memory

__all__ = ["Cluster", "RayPool", "ray_pool"]

RETRIES = 3
"""Workers that a run may lose."""
_AT_ONCE = 1024
"""Tasks that Ray is told of at a time; the others wait here."""


@dataclass(frozen=True)
class Cluster:
    """Where runs go."""

    address: str | None = None
    """Of a cluster, as Ray writes it: ``HOST:6379``, ``ray://HOST:10001`` or ``auto``; Ray's own choice if None, which may start one on this machine."""
    gpus_per_run: float | None = None
    """Of each run: 0.25 puts four of them on a GPU. If None one where the cluster has any, else none."""

    def __post_init__(self) -> None:
        gpus = self.gpus_per_run
        if gpus is not None and not (0 <= gpus <= 1 or (gpus > 1 and gpus == int(gpus))):
            raise InputError(f"gpus_per_run is a share of a GPU or a whole number of them, got {gpus:g}")


class RayPool(Executor):
    """What a pool of processes is, on other machines."""

    def __init__(self, jobs: int | None, gpus: float, marker: Path) -> None:
        import ray

        self._ray, self._marker = ray, marker
        self._threads = ThreadPoolExecutor(jobs or _AT_ONCE)
        self._going: set[Any] = set()
        self._stopping = False
        place: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        # an error of the run's own is no reason to try it again
        self._remote = ray.remote(_on_worker).options(max_retries=RETRIES, retry_exceptions=False, **place)

    def submit(self, task: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        return self._threads.submit(self._wait_for, partial(task, *arguments, **options))

    def _wait_for(self, task: Callable[[], Any]) -> Any:
        errors = self._ray.exceptions
        if self._stopping:
            raise CancelledError
        reference = self._remote.remote(task, os.getcwd(), _environment(), str(self._marker))
        self._going.add(reference)
        if self._stopping:
            # between the first look and the list
            self._ray.cancel(reference, force=False)
        try:
            return self._ray.get(reference)
        except errors.TaskCancelledError:
            raise Interrupted(self._marker.parent, 0) from None
        except errors.RayTaskError as error:
            # as it was raised, and not in the clothes that Ray gives it
            raise error.cause from None
        except errors.RayError as error:
            said = " ".join(str(error).split())[:300]
            raise InputError(f"Ray lost a run {RETRIES + 1} times, or its cluster ({said}); what is done is kept, re-run the same command to resume") from error
        finally:
            self._going.discard(reference)

    def stop(self, futures: Iterable[Future[Any]]) -> None:
        """Runs that go save and end, as on Ctrl-C; those that wait are not begun."""
        self._stopping = True
        for future in futures:
            future.cancel()
        for reference in list(self._going):
            self._ray.cancel(reference, force=False)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)


@contextmanager
def ray_pool(where: Cluster, jobs: int | None, folder: Path, tell: Callable[[str], None]) -> Iterator[RayPool]:
    """A pool on a cluster, which is joined for as long.

    Args:
        where: the cluster.
        jobs: runs at a time; as many as the cluster has room for if None.
        folder: that the runs write to, which every machine must see by this name.
        tell: is given a line on what was joined.

    Raises:
        ValueError: Ray is not installed, the cluster does not answer, or it has no GPU where some are asked for.
    """
    require("runs on a cluster", ("ray",))
    import ray

    ours = not ray.is_initialized()
    # nothing is told to anybody of a cluster that is started here, unless the user says so
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ours:
        _look_for(where.address)
        try:
            own: dict[str, Any] = {} if where.address else {"include_dashboard": False}
            ray.init(address=where.address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"no cluster of Ray answers at {where.address or 'this machine'}: {' '.join(str(error).split())[:200]}; start one with ray start"
            ) from error
    marker = folder.resolve() / f".ray-{uuid.uuid4().hex}"
    try:
        there = ray.cluster_resources()
        gpus = where.gpus_per_run if where.gpus_per_run is not None else float(there.get("GPU", 0) > 0)
        if gpus and not there.get("GPU"):
            raise InputError("the cluster has no GPU; leave --gpus-per-run out, or give 0")
        alive = sum(bool(node["Alive"]) for node in ray.nodes())
        tell(f"Ray: {alive} machine{'s' * (alive != 1)}, {there.get('CPU', 0):g} cores, {there.get('GPU', 0):g} GPUs; {gpus:g} GPUs and a core for each run")
        marker.touch()
        with RayPool(jobs, gpus, marker) as pool:
            yield pool
    finally:
        marker.unlink(missing_ok=True)
        if ours:
            ray.shutdown()


def _look_for(address: str | None) -> None:
    """Whether anybody is there, since Ray would try for minutes; ``auto`` and the like it looks up itself."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no cluster of Ray answers at {address}: {error}; start one with ray start, or look whether the address is right") from error


def _environment() -> dict[str, str]:
    """What of ours is said by the environment, so that workers elsewhere know it."""
    return {name: value for name, value in os.environ.items() if name == VARIABLE or name == "FOVEAL_CACHE"}


def _on_worker(task: Callable[[], Any], place: str, environment: Mapping[str, str], marker: str) -> Any:
    """A task, as in a process of this machine: one thread, the same folder, the same extensions."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    keep_memory()
    if not Path(marker).exists():
        raise InputError(
            f"{Path(marker).parent} is another folder on {socket.gethostname()} or none; give --out a folder that all machines of the cluster share"
        )
    if Path(place).is_dir():
        os.chdir(place)
    load_extensions()
    return task()
