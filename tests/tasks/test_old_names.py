"""Tasks of users that were written with the names of before still work, and say so."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest

from foveal.lab import tasks
from foveal.lab.tasks import Classification, Task, VideoClassification
from foveal.lab.tasks._task import SampleOrder

BUNDLE = SimpleNamespace(img_size=8, in_chans=3, classes=("a", "b"))
USUAL = {"img_size": 8, "in_chans": 3, "num_classes": 2}


def test_an_override_of_before_is_asked() -> None:
    with pytest.warns(DeprecationWarning, match=r"Mine: (needs|running|renewals) is called (model_kwargs|train_metrics|refresh_steps) now") as said:

        @dataclass(frozen=True, kw_only=True)
        class Mine(Classification):
            running: ClassVar[tuple[str, ...]] = ("share",)

            def needs(self, bundle):
                return {**super().needs(bundle), "more": 1}

            def renewals(self, steps):
                return (steps // 2,)

    assert len(said) == 3
    task = Mine()
    with pytest.warns(DeprecationWarning, match=r"Mine: needs is called model_kwargs"):
        assert task.model_kwargs(BUNDLE) == {**USUAL, "more": 1}
    assert task.train_metrics == ("share",)
    assert task.refresh_steps(10) == (5,)


def test_the_parents_own_answer_is_found_and_not_the_first() -> None:
    with pytest.warns(DeprecationWarning, match="renew is called refresh"):

        class Mine(VideoClassification):
            def renew(self, step, model, samples, bundle, seed):
                return {}

    assert Mine.refresh is Mine.renew
    with pytest.warns(DeprecationWarning, match=r"running is called train_metrics"):
        assert Classification().running == ("accuracy",)
    with pytest.warns(DeprecationWarning, match=r"needs is called model_kwargs"):
        assert Classification().needs(BUNDLE) == USUAL


def test_both_names_are_one_too_many() -> None:
    with pytest.raises(TypeError, match="Mine defines model_kwargs and needs"):

        class Mine(Task):
            def needs(self, bundle):
                return {}

            def model_kwargs(self, bundle):
                return {}


def test_walk_is_the_old_name_of_an_order() -> None:
    with pytest.warns(DeprecationWarning, match="Walk is called SampleOrder"):
        assert tasks.Walk is SampleOrder
