"""One registry: names come back, near matches are named, and a name is given once; old names of a module warn."""

import sys
import types

import pytest

from foveal._deprecated import renamed
from foveal._registry import Registry


def test_a_registry_gives_back_what_it_was_given_and_no_name_twice() -> None:
    shapes: Registry[int] = Registry("shape")
    assert shapes.add("square", 4) == 4
    shapes.add("hexagon", 6)
    assert list(shapes) == ["hexagon", "square"]
    assert "circle" not in shapes
    assert shapes["square"] == 4
    with pytest.raises(ValueError, match="unknown shape 'sqare'; did you mean square"):
        shapes["sqare"]
    with pytest.raises(ValueError, match="shape 'square' is already registered: 4"):
        shapes.add("square", 5)
    assert shapes["square"] == 4


def test_an_old_name_warns_and_a_wrong_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("toy_of_renamed")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.New = object()  # type: ignore[attr-defined]
    find = renamed(module.__name__, {"Old": "New"})
    with pytest.warns(DeprecationWarning, match="toy_of_renamed.Old is New now"):
        assert find("Old") is module.New  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="Wrong"):
        find("Wrong")
