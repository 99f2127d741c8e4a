"""Processes that train one run each, of comparisons and of studies: one thread, an end when their parent ends, and a stop that saves.

To import everything takes seconds, and a comparison of minutes has a dozen processes. So on Linux they are forked off a server that has imported once; where
there is an accelerator, whose driver does not survive a fork, or another system, each imports for itself.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, forkserver
from multiprocessing.context import BaseContext
from typing import Any

import torch

__all__ = ["LEAVE_SECONDS", "Processes", "as_interrupt", "keep_memory", "one_thread_each", "open_server", "pool", "start_worker", "stop_workers"]

LEAVE_SECONDS = 30.0
"""What a worker whose parent is gone may take for its step and a checkpoint."""


@contextmanager
def one_thread_each() -> Iterator[None]:
    """For the processes started inside: they read this before torch is loaded. Two threads in each of two processes were seen ten times slower."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def open_server() -> None:
    """Let it begin to import, while there is something else to do."""
    if _context().get_start_method() == "forkserver":
        with one_thread_each():
            forkserver.ensure_running()


class Processes(ProcessPoolExecutor):
    """Of this machine."""

    def stop(self, futures: Iterable[Future[Any]]) -> None:
        """Runs that go save and end; those that wait are not begun."""
        stop_workers(self, futures)


def pool(jobs: int, *, fresh: bool = False) -> Processes:
    """So many processes at a time; where they are ``fresh`` each ends behind its first task. To be used within :func:`one_thread_each`."""
    last: dict[str, Any] = {"max_tasks_per_child": 1} if fresh else {}
    return Processes(jobs, _context(), _start, (os.getpid(), dict(os.environ), not fresh), **last)


def _context() -> BaseContext:
    if sys.platform != "linux" or torch.accelerator.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["foveal.lab.compare.run"])
    return context


def _start(parent: int, environment: dict[str, str], trains: bool) -> None:
    # the server's may be that of an earlier comparison of the same process
    os.environ.clear()
    os.environ.update(environment)
    start_worker(parent)
    if trains:
        keep_memory()


_MALLOC_TRIM_THRESHOLD, _MALLOC_MMAP_MAX = -1, -4


def keep_memory() -> None:
    """glibc gives large blocks back to the system at once, and every page of the next is faulted in and zeroed: a tenth of a training step was seen."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MALLOC_MMAP_MAX, 0)
        libc.mallopt(_MALLOC_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def as_interrupt() -> Iterator[None]:
    """SIGTERM stops a comparison as Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_PR_SET_PDEATHSIG = 1


def start_worker(parent: int) -> None:
    torch.set_num_threads(1)
    served = os.getppid() != parent and (owner := multiprocessing.parent_process()) is not None and owner.pid == parent
    if sys.platform == "linux" and not served:
        # at once, where the thread below looks once a second
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # between runs a worker has nothing to save, and the parent decides; during a run the training loop listens itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave_with_parent() -> None:
        if served and owner is not None:
            # the child of a server, whose parent's end is the end of a pipe
            connection.wait([owner.sentinel])
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        # nobody is left to hand a result to
        time.sleep(LEAVE_SECONDS)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def stop_workers(pool: ProcessPoolExecutor, futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
    # a worker in training saves and ends its run; an idle one ends
    for process in list((pool._processes or {}).values()):
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGTERM)
