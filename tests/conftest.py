"""Fixed seeds, poisoned memory, one thread; which case a test stands for."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(42)


@pytest.fixture(autouse=True, scope="session")
def _poisoned() -> None:
    # uninitialized memory becomes NaN, so that reading it fails loudly
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("case_filter", "names of cases; with any, only tests marked with one of them run", default="")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = set(config.getini("case_filter").split())
    for item in items:
        cases = sorted({name for mark in item.iter_markers("case") for name in mark.args})
        item.user_properties.append(("cases", cases))
    if wanted:
        items[:] = [item for item in items if wanted & set(dict(item.user_properties)["cases"])]
