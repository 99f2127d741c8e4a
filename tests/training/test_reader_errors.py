"""What a process that reads refuses is the line that it would be here, without that process's traceback."""

from dataclasses import replace

import pytest
from PIL import Image

from foveal import InputError
from foveal._errors import MissingExtra
from foveal.lab.data import ImageFolder
from foveal.lab.data._image import Unreadable
from foveal.lab.training import fit
from foveal.models import ViT
from tests.training.helpers import tiny


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_line_whoever_reads_it(tmp_path, workers) -> None:
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for n in range(2):
                Image.new("RGB", (16, 16), (9 * n, 0, 0)).save(tmp_path / part / label / f"{n}.png")
    broken = tmp_path / "train" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    recipe = tiny(data=ImageFolder(root=tmp_path, img_size=16, check=False), model=ViT(patch_size=8), workers=workers, batch_size=4)
    with pytest.raises(InputError) as caught:
        fit(replace(recipe, steps=2, eval_every=1, checkpoint_every=1), tmp_path / "run", quiet=True)
    said = str(caught.value)
    assert said.startswith(f"cannot read {broken}: "), said
    assert "\n" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("error", [InputError("a: b; c"), Unreadable.of("x.png", "File: y"), MissingExtra("p needs q"), InputError("two\nlines: of it")])
def test_errors_travel_through_pytorchs_loaders(error) -> None:
    from torch._utils import ExceptionWrapper

    try:
        raise error
    except InputError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 3")
    with pytest.raises(type(error)) as caught:
        wrapped.reraise()
    assert str(caught.value) == str(error)


def test_other_words_stay_as_they_are() -> None:
    for said in ("Caught a fish", "Caught InputError in DataLoader worker process 0.\nx", "x\ny: z", ""):
        assert str(InputError(said)) == said
    assert str(InputError(3)) == "3"
    assert InputError().args == ()
