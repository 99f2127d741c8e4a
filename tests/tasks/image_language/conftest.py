"""Scenes are composed once for a file of tests, and kept with it."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
