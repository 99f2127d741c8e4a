"""Processes that train one run each, of comparisons and of studies: one thread, an end when their parent ends, and a stop that saves."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["LEAVE_SECONDS", "as_interrupt", "one_thread_each", "start_worker", "stop_workers"]

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
    if sys.platform == "linux":
        # at once, where the thread below looks once a second
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # between runs a worker has nothing to save, and the parent decides; during a run the training loop listens itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave_with_parent() -> None:
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
