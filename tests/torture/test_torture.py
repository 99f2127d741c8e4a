"""A short part of the campaign: a dozen kills, and bad files of some kinds; all of it is `make torture`."""

import os
import re
import subprocess
import sys
from pathlib import Path

from foveal.lab.tasks import TASKS
from tests.torture.digest import differences, strict_json
from tests.torture.markup import looked_through
from tests.torture.page import page
from tests.torture.recipes import TASKS as TRIED

ROOT = Path(__file__).parents[2]


def test_a_short_campaign_finds_nothing_wrong() -> None:
    """In a process of its own, which forks."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--short"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    tried = {name: int(count) for name, count in re.findall(r"^(\w+): (\d+) tried, 0 wrong", done.stdout, re.MULTILINE)}
    assert tried["train"] + tried["places"] >= 10, done.stdout
    assert tried["files"] >= 60, done.stdout


def test_every_task_is_killed() -> None:
    assert set(TRIED) == set(TASKS)


def test_what_counts_as_wrong_would_be_seen() -> None:
    assert differences({"a": "1"}, {"a": "1"}) == ""
    assert differences({"a": "1"}, {"a": "2", "b": "3"}) == "a: 1, not 2, b: absent, not 3"
    for markup in ("<p><script>f0vealmark(1)</script>", "<a href='javascript:f0vealmark(1)'>", "<b onclick=x>", "<img src=x onerror=f0vealmark(1)>"):
        assert looked_through(markup), markup
    assert not looked_through("<p title='&lt;script&gt;f0vealmark(1)'>&lt;script&gt;f0vealmark(1)&lt;/script&gt;</p>")
    try:
        strict_json(b'{"loss": NaN}')
    except ValueError:
        pass
    else:
        raise AssertionError("NaN is no JSON")


def test_the_page_lists_what_was_wrong() -> None:
    one = {"about": "x", "date": "2026-01-01", "machine": "m", "seconds": 3, "tried": 2, "kinds": {"kill": {"good": 1, "wrong": 1}}}
    text = page({"train": one | {"wrong": [{"kind": "kill", "what": "a", "fault": "<b> lost | it"}]}})
    assert "1 were wrong" in text
    assert "| kill | 1 | 1 |" in text
    assert "\\<b\\> lost \\| it" in text
