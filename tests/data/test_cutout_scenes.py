"""Composed scenes of cut-outs, on a small folder of the same kind: what is seen is where boxes and masks say."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.lab.data import CutoutScenes
from foveal.lab.data.cutouts import CLASSES
from foveal.lab.data.detection.cutouts import BACKGROUNDS

pytestmark = pytest.mark.skipif(find_spec("skimage") is None, reason="backgrounds lie in scikit-image")
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """Full squares of magenta, green of the number of the class; half of them with a sentence."""
    for label, below in enumerate(CLASSES.values()):
        for n in range(8):
            path = tmp_path / below / "kind" / f"a_{label}_{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 40, 4), (255, 20 * label, 255, 255), np.uint8)).save(path)
            if n % 2:
                path.with_suffix(".txt").write_text(f"Number {label}-{n}.\nde.utf8=Nummer.\n", encoding="utf8")
    return tmp_path


def test_boxes_and_masks_are_of_what_is_seen(stamps) -> None:
    bundle = CutoutScenes(folder=str(stamps), img_size=64, train_scenes=3, val_scenes=3, test_scenes=25).load()
    counts = set()
    for index in range(25):
        image, target = bundle.test[index]
        pixels = image * STD + MEAN
        counts.add(len(target["labels"]))
        for box, mask, label in zip(target["boxes"].int().tolist(), target["masks"], target["labels"].tolist(), strict=True):
            rows, columns = torch.where(mask)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            want = torch.tensor([255, 20 * label, 255]) / 255
            torch.testing.assert_close(pixels[:, mask], want[:, None].expand(-1, int(mask.sum())), atol=1e-3, rtol=0)
        # magenta as strong is in no background
        magenta = (pixels[0] > 0.99) & (pixels[2] > 0.99) & (pixels[1] < 0.75)
        assert torch.equal(magenta, target["masks"].any(0))
        assert target["caption"].count(".") == len(target["labels"])
    assert counts == {1, 2, 3, 4}


def test_splits_share_nothing_and_evaluation_stays(stamps) -> None:
    bundle = CutoutScenes(folder=str(stamps), img_size=32, train_scenes=4, val_scenes=2, test_scenes=2).load()
    sentences = [set(getattr(bundle, name)._sentences) for name in BACKGROUNDS]
    assert [len(part) for part in sentences] == [50, 10, 20]
    assert len(set.union(*sentences)) == 80
    photos = [set(names) for names in BACKGROUNDS.values()]
    assert len(set.union(*photos)) == sum(map(len, photos))
    assert {"Number 0-1.", "a 0 0."} < set.union(*sentences)
    assert torch.equal(bundle.test[1][0], bundle.test[1][0])
    assert bundle.train.augments
    torch.manual_seed(0)
    assert not torch.equal(bundle.train[0][0], bundle.train[0][0])


@pytest.mark.parametrize("options", [{"img_size": 8}, {"most": 0}, {"smallest": 0.7}, {"largest": 1.5}, {"test_scenes": 0}])
def test_numbers_that_make_no_scene_are_refused(options) -> None:
    with pytest.raises(InputError, match="expected img_size"):
        CutoutScenes(**options)
