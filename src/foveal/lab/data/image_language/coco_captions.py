"""COCO's captions, in its own JSON or in Karpathy's with its splits and words, with features of regions out of a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...._errors import InputError
from ...._ranges import Range
from .._bundle import Data, register_data
from .._foreign import Entry, read_json
from ..video._bundle import no_single_image
from ._bundle import CAPTIONS, CaptionBundle, Lexicon
from ._region_file import RegionFile
from ._things import tokens_of
from .captions import SceneCaptions

__all__ = ["CocoCaptions"]

_KARPATHY = {"train": "train", "restval": "train", "val": "val", "test": "test"}
Texts = dict[int, list[list[str]]]
"""Words of the captions of each image."""


@register_data
@dataclass(frozen=True, kw_only=True)
class CocoCaptions(Data):
    """Captions of photographs. Files are looked at as a whole before the first step.

    With ``karpathy``, ``dataset_coco.json``: train and restval train; words are the file's own. Without, COCO's own ``captions_*.json``: what validates is the
    test too, for COCO's has no captions.

    Raises:
        ValueError: a file is not there or not in its format; a caption without letters; an image without captions or without features.
    """

    targets: ClassVar[str] = CAPTIONS
    ranges: ClassVar[Mapping[str, Range]] = {"at_least": Range(at_least=1), "most_words": Range(at_least=1, at_most=256)}

    root: Path
    """The folder that the paths below begin in."""
    features: str = "regions.tsv"
    """Features of regions of all images, in LXMERT's TSV."""
    karpathy: str | None = "dataset_coco.json"
    """Karpathy's splits, and words; None for COCO's own files."""
    train: str = "annotations/captions_train2017.json"
    """COCO's captions of training images, without karpathy."""
    val: str = "annotations/captions_val2017.json"
    """COCO's captions of validation images, without karpathy."""
    at_least: int = 5
    """Words that training captions have less often are unknown."""
    most_words: int = 16
    """Longer training captions are cut; captions that are found have no more."""

    def load(self) -> CaptionBundle:
        regions = RegionFile(self.root / self.features)
        texts = self._karpathy(self.root / self.karpathy) if self.karpathy is not None else self._own()
        for split, images in texts.items():
            without = [image for image in images if image not in regions]
            if without:
                raise InputError(f"{regions.path} has no features of {len(without)} of {len(images)} images of {split}, such as image {without[0]}; add them")
            if not images:
                raise InputError(f"there is no image in {split}; expected {'splits ' + ', '.join(_KARPATHY) if self.karpathy else 'annotations'}")
        every = {split: [text for own in images.values() for text in own] for split, images in texts.items()}
        lexicon = Lexicon.of(every["train"], every["val"] + every["test"], at_least=self.at_least)
        longest = max(len(text) for text in every["val"] + every["test"])
        splits: dict[str, Any] = {}
        for split, images in texts.items():
            training = split == "train"
            # what is judged against is never cut
            length = 1 + (self.most_words if training else max(longest, self.most_words))
            splits[split] = _Captioned(regions, images, lexicon, length, training)
        if self.karpathy is None:
            splits["test"] = splits["val"]
        unknown = sum(lexicon.numbers[word] >= lexicon.size for text in every["train"] for word in text)
        cut = sum(len(text) > self.most_words for text in every["train"])
        return CaptionBundle(
            **splits,
            classes=[],
            img_size=1,
            in_chans=3,
            prepare=no_single_image,
            notes=[f"vocabulary of {lexicon.size} words; {unknown} training words are unknown; {cut} of {len(every['train'])} training captions were cut"],
            width=regions.width,
            lexicon=lexicon,
            length=1 + self.most_words,
        )

    def smoke_data(self) -> Data:
        """Scenes of digits: COCO is not at hand."""
        return SceneCaptions().smoke_data()

    def _karpathy(self, path: Path) -> dict[str, Texts]:
        found: dict[str, Texts] = {"train": {}, "val": {}, "test": {}}
        for number, values in enumerate(_listed(read_json(path), "images", path)):
            image = Entry(values, path, f"image {number}")
            split, key = image.text("split"), image.whole("cocoid")
            if split not in _KARPATHY:
                raise image.wrong("split", f"one of {', '.join(_KARPATHY)}")
            sentences = image.need("sentences")
            if not isinstance(sentences, list) or not sentences:
                raise image.wrong("sentences", "a list of captions, at least one")
            if any(key in images for images in found.values()):
                raise image.wrong("cocoid", "an image that is not listed before")
            found[_KARPATHY[split]][key] = [self._tokens(each, path, key) for each in sentences]
        return found

    @staticmethod
    def _tokens(values: Any, path: Path, image: int) -> list[str]:
        sentence = Entry(values, path, f"a sentence of image {image}")
        tokens = sentence.need("tokens")
        if not isinstance(tokens, list) or not all(isinstance(word, str) for word in tokens) or not any(map(tokens_of, tokens)):
            raise sentence.wrong("tokens", "words, with letters; take the caption out of the file")
        return tokens

    def _own(self) -> dict[str, Texts]:
        found = {}
        for split, name in (("train", self.train), ("val", self.val)):
            path = self.root / name
            values = read_json(path)
            texts: Texts = {Entry(image, path, f"image {number}").whole("id"): [] for number, image in enumerate(_listed(values, "images", path))}
            for number, each in enumerate(_listed(values, "annotations", path)):
                annotation = Entry(each, path, f"annotation {number}")
                annotation = annotation.named(f"annotation {annotation.whole('id')}")
                image, words = annotation.whole("image_id"), tokens_of(str(annotation.need("caption")))
                if image not in texts:
                    raise annotation.wrong("image_id", "an image that the file lists")
                if not words:
                    raise annotation.wrong("caption", "words, with letters; take the caption out of the file")
                texts[image].append(words)
            without = [image for image, captions in texts.items() if not captions]
            if without:
                raise InputError(f"{path}: {len(without)} images have no caption, such as image {without[0]}; take them out of the file")
            found[split] = texts
        return found | {"test": found["val"]}


def _listed(values: Any, name: str, path: Path) -> list[Any]:
    found = values.get(name) if isinstance(values, dict) else None
    if not isinstance(found, list) or not found:
        raise InputError(f"{path}: expected an object with a list of {name}, at least one")
    return found


class _Captioned:
    """A split."""

    augments = False

    def __init__(self, regions: RegionFile, images: Texts, lexicon: Lexicon, length: int, training: bool) -> None:
        self._regions, self._images = regions, list(images)
        self.references = [_stacked(texts, lexicon, length, training) for texts in images.values()]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        inputs = self._regions.inputs(self._images[index])
        return inputs, {"references": self.references[index], "classes": torch.zeros(0, dtype=torch.bool)}


def _stacked(texts: Sequence[Sequence[str]], lexicon: Lexicon, length: int, training: bool) -> Tensor:
    return torch.stack([lexicon.encoded(text, length, for_training=training) for text in texts])
