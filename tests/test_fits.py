from pathlib import Path
from typing import Any, Literal

import pytest

from foveal._fits import described, fits
from foveal.attention import config_from_dict


@pytest.mark.parametrize(
    ("kind", "good", "bad", "words"),
    [
        (int, [0, -3], [True, 1.0, "1", None], "int"),
        (float, [0.5, 1], [False, "0.5"], "float"),
        (bool, [True], [1, "yes"], "bool"),
        (int | None, [None, 2], ["", 2.5], "int or None"),
        (Literal["init", "hard"], ["hard"], ["soft", None], "one of 'init', 'hard'"),
        (tuple[int, int], [(1, 2)], [(1,), (1, 2, 3), (1, 0.5), [1, 2]], "tuple[int, int]"),
        (tuple[str, ...], [(), ("a", "b")], [("a", 1), "ab"], "tuple[str, ...]"),
        (dict[str, Any] | None, [{"a": 1}, None], [[]], "dict[str, typing.Any] or None"),
        (Path | None, [Path("x"), None], ["x"], "Path or None"),
    ],
)
def test_values_and_annotations(kind, good, bad, words) -> None:
    assert all(fits(value, kind) for value in good)
    assert not any(fits(value, kind) for value in bad)
    assert described(kind).replace("pathlib.", "") == words


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"attention": "external", "slots": "many"}, "slots of external must be int, got 'many'"),
        ({"attention": "external", "tie": "hrad"}, "tie of external must be one of 'none', 'init', 'hard', got 'hrad'"),
        ({"attention": "halo", "grid_size": [4, 4.5]}, r"grid_size of halo must be tuple\[int, int\] or None, got \[4, 4.5\]"),
    ],
)
def test_an_option_of_another_type_is_refused(values, says) -> None:
    with pytest.raises(ValueError, match=says):
        config_from_dict(values)


def test_a_list_out_of_json_is_a_tuple() -> None:
    assert config_from_dict({"attention": "halo", "grid_size": [4, 6]}).grid_size == (4, 6)
