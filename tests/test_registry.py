"""One registry: names come back, near matches are named, and a name is given once; old names of a module warn."""

import pytest

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
