"""The benchmarks of stereo matching, in the folders that torchvision's readers expect.

``SceneFlow``         ROOT/SceneFlow/{FlyingThings3D, Monkaa, Driving} with frames_cleanpass, frames_finalpass and disparity; PFM
``KITTIStereo``       ROOT/Kitti2015/training with image_2, image_3, disp_occ_0, disp_occ_1, or ROOT/Kitti2012/training with colored_0, colored_1, disp_noc;
                      PNG of 16 bits, disparity times 256, 0 where nobody knows
``MiddleburyStereo``  ROOT/Middlebury2014/{train, additional}/SCENE-perfect with im0.png, im1.png, disp0.pfm; infinite where nobody knows

torchvision's classes list the files, and decode PFM. Which file belongs to which is looked up here by name: KITTI 2015 has two frames of every scene and the
truth of one, and pairing by position, as torchvision does, would give most images another's truth.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F

from ...._errors import InputError, missing_extra
from ...._ranges import Range
from .._bundle import Data, register_data, seed_of
from .._image import open_picture
from . import _miniature
from ._bundle import Pixels, StereoBundle, StereoSample, as_sample, prepare_pair, shrink

__all__ = ["KITTIStereo", "MiddleburyStereo", "SceneFlow"]


@dataclass(frozen=True)
class _Pair:
    """Files of a pair, and the reader that decodes them."""

    left: Path
    right: Path
    disparity: Path
    reader: Any


@dataclass(frozen=True, kw_only=True)
class StereoFiles(Data):
    """What sets of stereo files share. Training sees random crops; evaluation whole images in their own size.

    Raises:
        ValueError: folders or files are missing, cannot be decoded, or do not belong together.
    """

    targets: ClassVar[str] = "disparity"
    zero_unknown: ClassVar[bool]
    """Whether 0 in the files means that nobody knows."""

    ranges: ClassVar[Mapping[str, Range]] = {"val_pairs": Range(at_least=1)}

    root: Path
    """Folder of the set, as torchvision expects it."""
    crop: tuple[int, int] = (256, 512)
    """Height and width of the training crops; smaller images are padded with pixels of unknown disparity."""
    shrink: int = 1
    """How many times smaller the images are made."""
    max_disparity: int | None = None
    """Pixels whose true disparity is this or more are left out of everything, in evaluation too. None leaves out none."""
    seed: int = 0
    """Decides which pairs validate."""

    def __post_init__(self) -> None:
        if min(self.crop) < 1 or self.shrink < 1 or (self.max_disparity is not None and self.max_disparity < 1):
            raise InputError(f"expected crop, shrink and max_disparity of at least 1, got {self.crop}, {self.shrink} and {self.max_disparity}")

    @abstractmethod
    def splits(self) -> tuple[dict[str, list[_Pair]], tuple[str, ...]]:
        """Files of ``train``, ``val`` and ``test``, and names of the test scenes where each is scored by itself."""

    def truth(self, path: Path, reader: Any) -> Pixels:
        """Disparities ``(H, W)`` out of a file of torchvision's set ``reader``."""
        return reader._read_disparity(str(path))[0][0]

    def load(self) -> StereoBundle:
        splits, scenes = self.splits()
        for name, pairs in splits.items():
            if not pairs:
                raise InputError(f"{self.root}: there is no pair of images in {name}")
        parts = {name: _Files(self, pairs, crops=name == "train", numbered=bool(scenes) and name == "test") for name, pairs in splits.items()}
        notes = [] if self.shrink == 1 else [f"images were made {self.shrink} times smaller: numbers are in pixels of that size, and none of the benchmark's"]
        return StereoBundle(
            train=parts["train"],
            val=parts["val"],
            test=parts["test"],
            classes=[],
            img_size=max(self.crop),
            in_chans=6,
            prepare=prepare_pair,
            notes=notes,
            crop=self.crop,
            scenes=scenes,
        )

    def _listed(self, make: Callable[[Any], Any], wanted: str) -> list[_Pair]:
        """Pairs of one of torchvision's sets whose truth is there."""
        try:
            from torchvision import datasets
        except ImportError as error:
            raise missing_extra("torchvision", "train", "stereo files") from error
        try:
            found = make(datasets)
        except (FileNotFoundError, ValueError) as error:
            raise InputError(f"{self.root} does not hold {wanted}: {error}") from error
        truths = {_key(Path(left)): Path(left) for left, _ in found._disparities}
        pairs = []
        for left, right in found._images:
            if _key(Path(left)) != _key(Path(right)):
                raise InputError(f"{left} and {right} are listed as a pair, but their names differ: an image is missing")
            if _key(Path(left)) in truths:
                pairs.append(_Pair(Path(left), Path(right), truths[_key(Path(left))], found))
        return pairs

    def _split(self, pairs: Sequence[_Pair], count: int) -> tuple[list[_Pair], list[_Pair]]:
        """Some pairs, drawn, and the others."""
        if not 0 < count < len(pairs):
            raise InputError(f"{self.root} has {len(pairs)} pairs with truth; of these {count} cannot be kept for validation")
        drawn = set(np.random.default_rng(seed_of("stereo", self.seed)).permutation(len(pairs))[:count].tolist())
        return [pairs[n] for n in sorted(drawn)], [pair for n, pair in enumerate(pairs) if n not in drawn]


# folders that tell views, passes and kinds of truth apart, and not scenes
_KINDS = {"left", "right", "image_2", "image_3", "colored_0", "colored_1", "disp_occ_0", "disp_occ_1", "disp_noc", "disparity"}
_KINDS |= {"frames_cleanpass", "frames_finalpass"}
_VIEWS = {"im0": "", "im1": "", "disp0": "", "disp1": ""}


def _key(path: Path) -> tuple[str, ...]:
    """What an image has in common with its other view and its truth: the path without its kinds and ending."""
    return (*(part for part in path.parent.parts if part not in _KINDS), _VIEWS.get(path.stem, path.stem))


class _Files:
    def __init__(self, settings: StereoFiles, pairs: Sequence[_Pair], *, crops: bool, numbered: bool) -> None:
        self.augments = crops
        self._settings, self.pairs, self._numbered = settings, list(pairs), numbered

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> StereoSample:
        left, right, disparity = self._read(self.pairs[index])
        sample = as_sample(left, right, disparity, index if self._numbered else -1)
        return _cropped(sample, self._settings.crop) if self.augments else sample

    def _read(self, pair: _Pair) -> tuple[Pixels, Pixels, Pixels]:
        left, right = (_decoded(path, _picture) for path in (pair.left, pair.right))
        truth = _decoded(pair.disparity, lambda path: self._settings.truth(path, pair.reader))
        for path, values in ((pair.right, right), (pair.disparity, truth)):
            if values.shape[:2] != left.shape[:2]:
                raise InputError(f"{path} is {values.shape[1]}×{values.shape[0]}, but {pair.left} is {left.shape[1]}×{left.shape[0]}")
        settings = self._settings
        if settings.zero_unknown:
            truth = np.where(truth == 0, np.nan, truth)
        if settings.max_disparity is not None:
            truth = np.where(truth >= settings.max_disparity * settings.shrink, np.nan, truth)
        return shrink(left, right, truth, settings.shrink)


def _picture(path: Path) -> Pixels:
    # torchvision's own reader leaves a damaged file open
    opened = open_picture(path)
    if opened.orientation > 1:
        raise InputError(
            f"{path} has the orientation {opened.orientation} in its EXIF, and its disparity has none: a rectified pair lies as it is stored. "
            "Take the note out of the file, such as by exiftool -Orientation= FILE"
        )
    return np.asarray(opened.rgb())


def _decoded(path: Path, read: Callable[[Path], Pixels]) -> Pixels:
    try:
        return read(path)
    except InputError:
        raise
    # torchvision's reader of PFM raises Exception itself where a header is damaged
    except Exception as error:
        raise InputError(f"cannot read {path}: {error}; take its pair out, or get the file anew") from error


def _cropped(sample: StereoSample, size: tuple[int, int]) -> StereoSample:
    """A random crop. Padding lies below and on the right, where it moves nothing, and is the mean, which is 0 here."""
    images, (truth, scene) = sample
    height, width = size
    missing = (0, max(0, width - truth.shape[1]), 0, max(0, height - truth.shape[0]))
    images, truth = F.pad(images, missing), F.pad(truth, missing, value=float("nan"))
    top, left = (int(torch.randint(have - want + 1, ())) for have, want in zip(truth.shape, size, strict=True))
    window = (..., slice(top, top + height), slice(left, left + width))
    return images[window].contiguous(), (truth[window].contiguous(), scene)


@register_data
@dataclass(frozen=True, kw_only=True)
class SceneFlow(StereoFiles):
    """Scene Flow (Mayer et al. 2016): FlyingThings3D, Monkaa and Driving together train, FlyingThings3D's TEST tests.

    Pixels of 192 and more are left out everywhere, as in the published evaluations of PSMNet.
    """

    zero_unknown: ClassVar[bool] = False

    max_disparity: int | None = 192
    variants: tuple[str, ...] = ("FlyingThings3D", "Monkaa", "Driving")
    """Parts of the set to train on."""
    pass_name: Literal["clean", "final"] = "clean"
    """Which rendering of the images."""
    val_pairs: int = 200
    """Taken out of the training pairs."""

    def splits(self) -> tuple[dict[str, list[_Pair]], tuple[str, ...]]:
        known = ("FlyingThings3D", "Monkaa", "Driving")
        if "FlyingThings3D" not in self.variants or not set(self.variants) <= set(known):
            raise InputError(f"expected variants out of {', '.join(known)}, FlyingThings3D, which has the test pairs, among them; got {self.variants}")
        pairs = []
        for name in self.variants:
            wanted = f"SceneFlow/{name} with frames_{self.pass_name}pass and disparity"
            pairs += self._listed(partial(_scene_flow, root=self.root, variant=name, pass_name=self.pass_name), wanted)
        below = len(Path(self.root).parts)
        test = [pair for pair in pairs if "TEST" in pair.left.parts[below:]]
        val, train = self._split([pair for pair in pairs if "TEST" not in pair.left.parts[below:]], self.val_pairs)
        return {"train": train, "val": val, "test": test}, ()

    def smoke_data(self) -> "SceneFlow":
        """Made pairs in the same format."""
        return replace(self, root=_miniature.scene_flow(self.variants, self.pass_name), crop=_miniature.CROP, shrink=1, val_pairs=2)


def _scene_flow(sets: Any, **settings: Any) -> Any:
    return sets.SceneFlowStereo(**settings)


@register_data
@dataclass(frozen=True, kw_only=True)
class KITTIStereo(StereoFiles):
    """KITTI 2015 or 2012 (Menze and Geiger 2015; Geiger et al. 2012). The truth of the test images is not public; the final numbers are those of val.

    Of 2015 the truth with occluded pixels is read, of 2012 the one without, which is what torchvision reads.
    """

    zero_unknown: ClassVar[bool] = True

    year: Literal[2015, 2012] = 2015
    """Which of the two sets."""
    val_pairs: int = 40
    """Of the 200 (2015) or 194 (2012); the paper's number, its choice of pairs is not known to us."""

    def splits(self) -> tuple[dict[str, list[_Pair]], tuple[str, ...]]:
        folders = {2015: "image_2, image_3, disp_occ_0 and disp_occ_1", 2012: "colored_0, colored_1 and disp_noc"}[self.year]
        pairs = self._listed(lambda sets: getattr(sets, f"Kitti{self.year}Stereo")(self.root), f"Kitti{self.year}/training with {folders}")
        val, train = self._split(pairs, self.val_pairs)
        return {"train": train, "val": val, "test": val}, ()

    def smoke_data(self) -> "KITTIStereo":
        """Made pairs in the same format."""
        return replace(self, root=_miniature.kitti(self.year), crop=_miniature.CROP, shrink=1, val_pairs=2)

    def truth(self, path: Path, reader: Any) -> Pixels:
        image = open_picture(path).image
        if not image.mode.startswith("I"):
            raise ValueError(f"expected a gray image of 16 bits, got the mode {image.mode}")
        return np.asarray(image).astype(np.float32) / np.float32(256)


@register_data
@dataclass(frozen=True, kw_only=True)
class MiddleburyStereo(StereoFiles):
    """Middlebury 2014 (Scharstein et al. 2014): the additional scenes train and validate, the ten training scenes of the benchmark test, each by itself."""

    zero_unknown: ClassVar[bool] = True

    shrink: int = 4
    """Whole images are of six million pixels with disparities of several hundred."""
    val_pairs: int = 3
    """Pairs taken out of the training pairs to validate on."""

    def splits(self) -> tuple[dict[str, list[_Pair]], tuple[str, ...]]:
        def listed(split: str) -> list[_Pair]:
            return self._listed(lambda sets: sets.Middlebury2014Stereo(self.root, split=split), f"Middlebury2014/{split} with SCENE-perfect folders")

        test = listed("train")
        val, train = self._split(listed("additional"), self.val_pairs)
        return {"train": train, "val": val, "test": test}, tuple(pair.left.parent.name.removesuffix("-perfect") for pair in test)

    def smoke_data(self) -> "MiddleburyStereo":
        """Made pairs in the same format."""
        return replace(self, root=_miniature.middlebury(), crop=_miniature.CROP, shrink=1, val_pairs=2)
