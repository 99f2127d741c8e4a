"""COCO's captions, VQA v2 and LXMERT's regions in their true formats, written here; and broken in one place each, which the error names."""

import base64
import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveal.lab.data import CocoCaptions, VQAv2
from foveal.lab.data.image_language.vqa import answer_scores, plain_answer

IMAGES, WIDTH = 8, 6
CAPTIONS = [
    ["A dog runs.", "A brown dog is running, fast!"],
    ["Two cats sleep on a sofa.", "cats on a sofa"],
    ["A dog and a cat.", "There's a dog's bowl."],
    ["A bird above a dog", "a bird"],
]
RNG = np.random.default_rng(0)
FEATURES = [RNG.random((3 + n % 2, WIDTH), np.float32) for n in range(IMAGES)]
FAR = np.array([[0, 0, 64, 48]] * 3, np.float32)
BOXES = [np.array([[0, 0, 32, 24]] * (3 + n % 2), np.float32) for n in range(IMAGES)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path_factory.mktemp("cache")))


def row(n: int, **change: Any) -> str:
    text = lambda values: base64.b64encode(np.ascontiguousarray(values)).decode()  # noqa: E731
    count = len(BOXES[n])
    values = {"img_id": f"COCO_train2014_{n + 1:012d}", "img_h": 48, "img_w": 64, "objects_id": text(np.zeros(count, np.int64))}
    values |= {"objects_conf": text(np.zeros(count, np.float32)), "attrs_id": text(np.zeros(count, np.int64)), "attrs_conf": text(np.zeros(count, np.float32))}
    values |= {"num_boxes": count, "boxes": text(BOXES[n]), "features": text(FEATURES[n])} | change
    return "\t".join(str(value) for value in values.values()) + "\n"


def karpathy() -> dict[str, Any]:
    splits = ["train", "train", "restval", "train", "train", "val", "test", "test"]
    images = [
        {
            "filepath": "train2014",
            "filename": f"{n}.jpg",
            "cocoid": n + 1,
            "split": split,
            "sentences": [{"tokens": text.lower().replace(".", "").split(), "raw": text, "sentid": 10 * n + k} for k, text in enumerate(CAPTIONS[n % 4])],
        }
        for n, split in enumerate(splits)
    ]
    return {"images": images, "dataset": "coco"}


def own(first: int, last: int) -> dict[str, Any]:
    images = [{"id": n + 1, "file_name": f"{n}.jpg", "height": 48, "width": 64} for n in range(first, last)]
    annotations = [{"id": 10 * n + k, "image_id": n + 1, "caption": text} for n in range(first, last) for k, text in enumerate(CAPTIONS[n % 4])]
    return {"images": images, "annotations": annotations}


def vqa(first: int, last: int) -> tuple[dict[str, Any], dict[str, Any]]:
    questions = [
        {"image_id": n + 1, "question": "Is there a dog?" if n % 2 else "How many dogs are there?", "question_id": 100 + n} for n in range(first, last)
    ]
    given = [["Yes"] * 4 + ["no"] * 5 + ["maybe"], ["two"] * 9 + ["2."]]
    annotations = [
        {
            "question_id": 100 + n,
            "image_id": n + 1,
            "question_type": "is there",
            "answer_type": "yes/no" if n % 2 else "number",
            "multiple_choice_answer": "no" if n % 2 else "2",
            "answers": [{"answer": text, "answer_confidence": "yes", "answer_id": k + 1} for k, text in enumerate(given[1 - n % 2])],
        }
        for n in range(first, last)
    ]
    return {"questions": questions, "info": {}}, {"annotations": annotations, "info": {}}


def write(root: Path, **broken: Callable[[Any], Any]) -> Path:
    """All files; each may be changed by a function of what it holds."""
    held: dict[str, Any] = {"dataset_coco.json": karpathy()}
    for split, span in (("train", (0, 6)), ("val", (6, 8))):
        held[f"annotations/captions_{split}2017.json"] = own(*span)
        held[f"v2_OpenEnded_mscoco_{split}2014_questions.json"], held[f"v2_mscoco_{split}2014_annotations.json"] = vqa(*span)
    held["regions.tsv"] = [row(n) for n in range(IMAGES)]
    for name, values in held.items():
        short = next((key for key in broken if key in name), None)
        changed = copy.deepcopy(values)
        got = None if short is None else broken[short](changed)
        changed = got if isinstance(got, (list, str)) else changed
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(changed) if name.endswith("tsv") else changed if isinstance(changed, str) else json.dumps(changed), encoding="utf8")
    return root


def test_karpathys_file(tmp_path) -> None:
    bundle = CocoCaptions(root=write(tmp_path), at_least=2, most_words=4).load()
    assert [len(split) for split in (bundle.train, bundle.val, bundle.test)] == [5, 1, 2]
    inputs, target = bundle.train[1]
    assert_regions(inputs, 1)
    assert bundle.lexicon.words[:4] == ("<pad>", "<begin>", "<end>", "<unknown>")
    # cut to four words, and the unknown said so: sofa occurs twice, two once
    assert bundle.said(target["references"][0]) == "<unknown> cats <unknown> on a"
    assert (target["references"][0] != bundle.lexicon.numbers["<end>"]).all()
    # what is judged against has all its words, those that no model can say too
    assert bundle.said(bundle.test[0][1]["references"][1]) == "there's a dog's bowl"
    assert max(int(row.max()) for _, target in (bundle.train[n] for n in range(5)) for row in target["references"]) < bundle.lexicon.size
    assert bundle.length == 5
    assert "training words are unknown; 5 of 10 training captions were cut" in bundle.notes[0]


def assert_regions(inputs: dict[str, torch.Tensor], n: int) -> None:
    count = len(BOXES[n])
    assert inputs["regions"].shape == (4, WIDTH)
    assert torch.equal(inputs["regions"][:count], torch.from_numpy(FEATURES[n]))
    assert inputs["boxes"][0].tolist() == [0, 0, 0.5, 0.5]
    assert inputs["there"].tolist() == [True] * count + [False] * (4 - count)


def test_a_box_that_lies_outside_of_a_later_image_is_named_when_it_is_read(tmp_path) -> None:
    edge, beyond = (base64.b64encode(scale * FAR).decode() for scale in (np.float32(1 + 1e-6), np.float32(1.1)))
    write(tmp_path, regions=lambda lines: [lines[0], row(2, boxes=edge), row(4, boxes=beyond), *lines[5:], lines[1], lines[3]])
    bundle = CocoCaptions(root=tmp_path, at_least=1).load()
    assert bundle.train[2][0]["boxes"].max() == 1, "by a rounding error"
    with pytest.raises(ValueError, match=r"image COCO_train2014_000000000005: expected boxes .* within 64×48"):
        bundle.train[4]


def test_cocos_own_files_and_other_processes(tmp_path) -> None:
    data = CocoCaptions(root=write(tmp_path), karpathy=None, at_least=1)
    bundle = data.load()
    assert [len(split) for split in (bundle.train, bundle.val)] == [6, 2]
    assert bundle.test is bundle.val
    assert bundle.said(bundle.train[0][1]["references"][1]) == "a brown dog is running fast"
    assert_regions(pickle.loads(pickle.dumps(bundle.train))[3][0], 3)
    assert data.smoke_data().smoke_data() == data.smoke_data()


def test_vqa(tmp_path) -> None:
    bundle = VQAv2(root=write(tmp_path), at_least=3).load()
    assert bundle.answers == ("2", "no")
    inputs, target = bundle.train[1]
    assert bundle.asked(inputs["question"]) == "is there a dog?"
    assert_regions(inputs, 1)
    # five of ten said no; yes cannot be given
    assert target.tolist() == [0.0, 0.0, 1.0]
    assert bundle.train[0][1].tolist() == [1.0, 1.0, 0.0]
    assert bundle.kinds == ("yes/no", "number", "other")
    few = VQAv2(root=tmp_path, at_least=3, questions="v2_OpenEnded_mscoco_{split}2014_questions.json").load()
    assert few.notes[:2] == ["2 answers can be given", "0 of 6 training questions, all of whose answers are others, are left out"]


@pytest.mark.parametrize(("count", "score"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_accuracy_of_an_answer_is_vqas(count, score) -> None:
    answers = ["x"] * count + [f"other {n}" for n in range(10 - count)]
    sets = [answers[:left] + answers[left + 1 :] for left in range(10)]
    slow = sum(min(1.0, others.count("x") / 3) for others in sets) / 10
    assert answer_scores(answers)["x"] == pytest.approx(score)
    assert slow == pytest.approx(score)
    assert answer_scores(answers).get("y", 0.0) == 0.0


def test_answers_are_compared_as_vqa_does() -> None:
    same = {"The Dog!": "dog", "two": "2", "1,000": "1000", "none": "0", "A  cat.": "cat", "2.5": "2.5", "it's": "its"}
    same |= {"t-shirt": "t shirt", "black/white": "black white", "10:30": "10:30"}
    assert {text: plain_answer(text) for text in same} == same


def drop_feature(lines: list[str]) -> list[str]:
    return [row(n, features=base64.b64encode(FEATURES[n][:-1].tobytes()[:-4]).decode()) if n == 2 else line for n, line in enumerate(lines)]


def set_at(*path: Any, to: Any) -> Callable[[Any], None]:
    def change(values: Any) -> None:
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = to

    return change


BROKEN = [
    ("karpathy", {"dataset": set_at("images", 1, "sentences", 0, "tokens", to=["...", "!"])}, r"image 2 has tokens .*words, with letters"),
    ("karpathy", {"dataset": set_at("images", 1, "split", to="trian")}, r"image 1 has split 'trian'; expected one of train"),
    ("karpathy", {"dataset": set_at("images", 1, "sentences", to=[])}, "at least one"),
    ("karpathy", {"dataset": set_at("images", 1, "cocoid", to=1)}, "not listed before"),
    ("karpathy", {"dataset": set_at("images", 1, "cocoid", to=99)}, "no features of 1 of 5 images of train, such as image 99"),
    ("karpathy", {"dataset": lambda values: json.dumps(values)[:-30]}, "is no JSON"),
    ("karpathy", {"dataset": lambda values: "[]"}, "a list of images"),
    ("karpathy", {"regions": drop_feature}, r"line 3: num_boxes is 3, and features hold 11 numbers; expected 3 × 6 \(image COCO_train2014_000000000003\)"),
    ("karpathy", {"regions": lambda lines: [*lines[:-1], lines[-1][:40]]}, "line 8: expected 10 fields"),
    ("karpathy", {"regions": lambda lines: [*lines, lines[0]]}, "line 9: image COCO_train2014_000000000001 is there a second time"),
    ("karpathy", {"regions": lambda lines: [*lines, row(0, img_id="COCO_val2014_000000000001")]}, "both image 1; leave"),
    ("karpathy", {"regions": lambda lines: [row(0, num_boxes="x")]}, "whole number"),
    ("karpathy", {"regions": lambda lines: [row(0, img_w=0), *lines[1:]]}, "line 1: expected a whole number above 0 as img_w"),
    ("karpathy", {"regions": lambda lines: [row(0, boxes=base64.b64encode(1.1 * FAR).decode()), *lines[1:]]}, r"000001: expected boxes .* within 64×48"),
    ("karpathy", {"regions": lambda lines: [row(0, features=base64.b64encode(np.nan * FEATURES[0]).decode()), *lines[1:]]}, "000001: .* not finite"),
    ("karpathy", {"regions": lambda lines: [row(0, img_id="cat")]}, "ends in its number, got 'cat'"),
    ("own", {"captions_train": set_at("annotations", 3, "caption", to="?!")}, r"annotation 11 has caption '\?!'.*letters"),
    ("own", {"captions_train": set_at("annotations", 3, "image_id", to=77)}, "an image that the file lists"),
    ("own", {"captions_train": lambda values: values["annotations"].__delitem__(slice(0, 2))}, "1 images have no caption, such as image 1"),
    ("vqa", {"train2014_annotations": lambda values: values["annotations"][2]["answers"].pop()}, "question 102 has answers .*list of 10 answers; it has 9"),
    ("vqa", {"train2014_annotations": set_at("annotations", 2, "answer_type", to="what")}, "one of yes/no, number, other"),
    ("vqa", {"train2014_annotations": set_at("annotations", 2, "question_id", to=55)}, "one that the questions have"),
    ("vqa", {"train2014_annotations": lambda values: values["annotations"].pop() and None}, "has 5 annotations of 5 questions, and .* has 6"),
    ("vqa", {"train2014_questions": set_at("questions", 2, "question", to="??")}, r"question 102 has question '\?\?'; expected words"),
    ("vqa", {"train2014_questions": set_at("questions", 2, "image_id", to=88)}, "is about image 88, of which .* has no features"),
    ("vqa", {"train2014_questions": set_at("questions", 2, "question_id", to=100)}, "not listed before"),
]


@pytest.mark.parametrize(("reader", "change", "says"), BROKEN, ids=[f"{n}" for n in range(len(BROKEN))])
def test_what_is_broken_is_named(reader, change, says, tmp_path) -> None:
    root = write(tmp_path, **change)
    if reader == "vqa" and "train2014_annotations" in change:
        # a function of the file's values that returns what it took out changes nothing else
        assert json.loads((root / "v2_mscoco_train2014_annotations.json").read_text())["annotations"]
    data = VQAv2(root=root, at_least=1) if reader == "vqa" else CocoCaptions(root=root, karpathy=None if reader == "own" else "dataset_coco.json", at_least=1)
    with pytest.raises(ValueError, match=says):
        data.load()


def test_answers_outside_of_all_that_can_be_given(tmp_path) -> None:
    with pytest.raises(ValueError, match="no answer is the most frequent one of 9"):
        VQAv2(root=write(tmp_path)).load()
    root = write(tmp_path, **{"train2014_annotations": rare})
    bundle = VQAv2(root=root, at_least=2).load()
    assert len(bundle.train) == 5
    assert "1 of 6 training questions, all of whose answers are others, are left out" in bundle.notes[1]
    with pytest.raises(ValueError, match="no file"):
        VQAv2(root=root, features="nothing.tsv").load()


def rare(values: Any) -> None:
    values["annotations"][0]["multiple_choice_answer"] = "rare"
    for answer in values["annotations"][0]["answers"]:
        answer["answer"] = "rare"
