"""A browser that is installed and does not run is a reason to skip, soon, and no failure of the page."""

from pathlib import Path

import pytest

from tests import browser
from tests.browser import Unavailable, opened


def program(folder: Path, does: str) -> str:
    path = folder / "chromium"
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("does", ["echo it needs the snap >&2; exit 10", "echo it needs the snap >&2; exec sleep 30"], ids=["ends", "hangs"])
def test_a_browser_that_does_not_start_is_told(does, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(browser, "_PATIENCE", 1)
    with pytest.raises(Unavailable, match=r"is installed and does not start: .*; it says it needs the snap"), opened(program(tmp_path, does)):
        pass
