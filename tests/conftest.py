"""Fixed seeds, poisoned memory, one thread."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(42)


@pytest.fixture(autouse=True, scope="session")
def _poisoned() -> None:
    # uninitialised memory becomes NaN, so that reading it fails loudly
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
