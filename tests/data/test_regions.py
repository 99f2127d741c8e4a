"""LXMERT's files in miniature: regions in TSV and shards, questions, what they load to, files that are broken, and made scenes."""

import base64
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foveal.cli import main
from foveal.lab.data import LxmertPairs, LxmertQuestions, RegionScenes, write_regions
from foveal.lab.data.regions import RegionTsv, read_answers, read_pairs, read_questions
from foveal.lab.data.regions._shards import RegionShards
from foveal.lab.data.regions.scenes import KINDS, SHAPES
from foveal.lab.recipes import get_recipe
from foveal.lab.tasks import RegionAnswers
from foveal.lab.training import fit
from foveal.models import Lxmert

DIM, WIDTH, HEIGHT = 6, 640, 480


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path_factory.mktemp("cache")))


FIELDS = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes", "features")


def packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def image(name: str, count: int, **changes: object) -> tuple[dict[str, object], np.ndarray, np.ndarray]:
    """A line as bottom-up attention's tools write it, and what is in it."""
    rng = np.random.default_rng(len(name) + 7 * count)
    corner = rng.uniform(0, 0.5, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.5, (count, 2))], 1).astype(np.float32) * np.array([WIDTH, HEIGHT] * 2, np.float32)
    features = rng.standard_normal((count, DIM)).astype(np.float32)
    line: dict[str, object] = {"img_id": name, "img_h": HEIGHT, "img_w": WIDTH, "num_boxes": count, "boxes": packed(boxes), "features": packed(features)}
    for key, kind in (("objects_id", np.int64), ("objects_conf", np.float32), ("attrs_id", np.int64), ("attrs_conf", np.float32)):
        line[key] = packed(np.zeros(count, kind))
    return line | changes, boxes, features


def tsv(path: Path, *lines: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(str(line[key]) for key in FIELDS) + "\n" for line in lines))
    return path


def asked(number: int, **changes: object) -> dict[str, object]:
    words = ("what color is the ball ?", "Is it red?")
    label = ({"net": 1, "netting": 0.3}, {"yes": 1.0}, {})
    return {"img_id": f"COCO_{number % 3}", "question_id": number, "sent": words[number % 2], "label": label[number % 3]} | changes


def pair(number: int, **changes: object) -> dict[str, object]:
    return {
        "uid": f"nlvr2_{number}",
        "img0": "COCO_0",
        "img1": f"COCO_{1 + number % 2}",
        "sent": "both are red",
        "label": number % 2,
        "identifier": "x",
    } | changes


ANSWERS = {"net": 1, "yes": 0, "netting": 2}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "color", "is", "the", "ball", "?", "it", "red", "both", "are"]


def written(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """All of a set, in LXMERT's form."""
    pytest.importorskip("transformers")
    from transformers import BertTokenizer

    written(tmp_path, "vqa/train.json", [asked(n) for n in range(8)])
    written(tmp_path, "vqa/nominival.json", [asked(n) for n in range(8, 10)])
    written(tmp_path, "vqa/minival.json", [asked(n) for n in range(10, 14)])
    written(tmp_path, "vqa/trainval_ans2label.json", ANSWERS)
    written(tmp_path, "nlvr2/train.json", [pair(n) for n in range(8)])
    written(tmp_path, "nlvr2/valid.json", [pair(n) for n in range(8, 11)])
    tsv(tmp_path / "mscoco_imgfeat/train2014_obj36.tsv", image("COCO_0", 3)[0], image("COCO_1", 5)[0])
    tsv(tmp_path / "mscoco_imgfeat/val2014_obj36.tsv", image("COCO_2", 4)[0])
    BertTokenizer(vocab={word: place for place, word in enumerate(WORDS)}).save_pretrained(tmp_path / "base")
    return tmp_path


def questions(root: Path, **changes: object) -> LxmertQuestions:
    return LxmertQuestions(root=root, base=str(root / "base"), **changes)


def pairs(root: Path, **changes: object) -> LxmertPairs:
    regions = ("mscoco_imgfeat/train2014_obj36.tsv", "mscoco_imgfeat/val2014_obj36.tsv")
    return LxmertPairs(root=root, base=str(root / "base"), **{"regions": regions} | changes)


def test_regions_are_those_that_were_written(tmp_path) -> None:
    lines = [image("a", 3), image("COCO_val2014_000000000042", 36), image("b", 1)]
    read = RegionTsv(tsv(tmp_path / "some.tsv", *(line for line, _, _ in lines)))
    assert read.region_dim == DIM
    assert "c" not in read
    for line, boxes, features in lines[::-1]:
        one = read[str(line["img_id"])]
        assert torch.equal(one.features, torch.from_numpy(features))
        np.testing.assert_allclose(one.boxes.numpy(), boxes / [WIDTH, HEIGHT, WIDTH, HEIGHT], rtol=1e-6)
    again = pickle.loads(pickle.dumps(read))
    assert torch.equal(again["a"].features, read["a"].features)
    assert read.most == 36


def test_a_file_is_looked_through_once_and_again_when_it_changed(tmp_path, monkeypatch) -> None:
    path = tsv(tmp_path / "some.tsv", image("a", 3)[0], image("b", 4)[0])
    first = RegionTsv(path)
    with monkeypatch.context() as patch:
        patch.setattr("foveal.lab.data.regions._tsv._index", lambda path: pytest.fail("looked through again"))
        again = RegionTsv(path)
        assert (again.places, again.region_dim, again.most) == (first.places, DIM, 4)
        assert torch.equal(again["b"].features, first["b"].features)
    tsv(path, image("a", 3)[0], image("c", 5)[0], image("b", 4)[0])
    assert list(RegionTsv(path).places) == ["a", "c", "b"]


@pytest.mark.parametrize(("half", "tolerance"), [(False, 0.0), (True, 2e-3)])
def test_shards_hold_the_same(tmp_path, half, tolerance, capsys) -> None:
    lines = [image("a", 3), image("b", 4), image("c", 1)]
    path = tsv(tmp_path / "some.tsv", *(line for line, _, _ in lines))
    assert main(["data", "regions", str(path), "--out", str(tmp_path / "out"), "--per-shard", "2", "--half", str(half)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    shards, read = RegionShards(tmp_path / "out"), RegionTsv(path)
    assert shards.region_dim == DIM
    assert list(shards.places) == ["a", "b", "c"]
    for name in ("c", "a", "b"):
        assert torch.equal(shards[name].boxes, read[name].boxes)
        assert (shards[name].features - read[name].features).abs().max() <= tolerance
        assert shards[name].features.dtype == torch.float32
    assert torch.equal(pickle.loads(pickle.dumps(shards))["b"].boxes, read["b"].boxes)
    assert main(["data", "regions", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "holds shards of regions already" in capsys.readouterr().err


def cut(line: dict[str, object], key: str, characters: int) -> dict[str, object]:
    return line | {key: str(line[key])[:-characters]}


BROKEN: list[tuple[Callable[[], list[dict[str, object]]], str]] = [
    (list, "is empty"),
    (lambda: [image("a", 3)[0], image("a", 4)[0]], "line 2: image a is there a second time"),
    (lambda: [image("a", 3, num_boxes=4)[0]], "num_boxes is 4, and there are 3 boxes"),
    (lambda: [image("a", 3, features=packed(np.zeros((2, DIM), np.float32)))[0], image("b", 3)[0]], "line 2: num_boxes is 3, and features hold 18 numbers"),
    (lambda: [image("a", 3, features=packed(np.zeros(7, np.float32)))[0]], "features hold 7 numbers; expected a multiple of 3"),
    (
        lambda: [image("a", 3, features=packed(np.zeros((3, DIM))))[0], image("b", 3)[0]],
        "line 2: num_boxes is 3, and features hold 18 numbers; expected 3 × 12",
    ),
    (lambda: [cut(image("a", 3)[0], "features", 3)], "no base64 of single-precision numbers"),
    (lambda: [image("a", 3, img_w="six")[0]], "a whole number above 0 as img_w, got 'six'"),
    (lambda: [image("a", 3, img_h=0)[0]], "as img_h"),
    (lambda: [image("", 3)[0]], "expected an img_id"),
    (lambda: [image("a", 3, boxes="")[0]], "there are 0 boxes"),
]


@pytest.mark.parametrize(("lines", "says"), BROKEN, ids=[says[:40] for _, says in BROKEN])
def test_broken_regions_are_refused_where_they_stand(tmp_path, lines, says) -> None:
    with pytest.raises(ValueError, match=says):
        RegionTsv(tsv(tmp_path / "some.tsv", *lines()))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"boxes": packed(np.full((3, 4), np.nan, np.float32))}, "not finite"),
        ({"boxes": packed(np.array([[0, 0, 700, 10]] * 3, np.float32))}, r"within 640×480"),
        ({"boxes": packed(np.array([[30, 0, 20, 10]] * 3, np.float32))}, "left, top, right, bottom"),
        ({"features": "!" * 4 * (3 * DIM * 4 // 3)}, "no base64"),
    ],
)
def test_values_that_cannot_be_are_refused_when_read(tmp_path, changes, says) -> None:
    read = RegionTsv(tsv(tmp_path / "some.tsv", image("a", 3, **changes)[0]))
    with pytest.raises(ValueError, match=f"image a: .*{says}"):
        read["a"]


def test_lines_of_other_fields_and_missing_files(tmp_path) -> None:
    path = tsv(tmp_path / "some.tsv", image("a", 3)[0])
    path.write_text(path.read_text().replace("\t", " "))
    with pytest.raises(ValueError, match=r"line 1: expected 10 fields .* got 1; is the file cut off"):
        RegionTsv(path)
    with pytest.raises(ValueError, match="is no file; expected a TSV"):
        RegionTsv(tmp_path / "none.tsv")
    with pytest.raises(ValueError, match=r"holds no regions-\*.safetensors"):
        RegionShards(tmp_path / "none")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "regions-00000.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="no safetensors file, or is damaged"):
        RegionShards(tmp_path / "bad")
    large = RegionTsv(tsv(tmp_path / "large.tsv", image("a", 3, features=packed(np.full((3, DIM), 1e5, np.float32)))[0]))
    with pytest.raises(ValueError, match="half precision cannot hold"):
        write_regions(large, tmp_path / "half", half=True)


def test_questions_are_read(tmp_path) -> None:
    answers = read_answers(written(tmp_path, "answers.json", ANSWERS))
    assert answers == ["yes", "net", "netting"]
    first, second, third = read_questions(written(tmp_path, "q.json", [asked(0), asked(1), asked(2)]), answers)
    assert (first.name, first.images, first.text, dict(first.scores)) == ("0", ("COCO_0",), "what color is the ball ?", {1: 1.0, 2: 0.3})
    assert dict(second.scores) == {0: 1.0}
    assert dict(third.scores) == {}, "questions without an answer that counts stay"
    found = read_pairs(written(tmp_path, "p.json", [pair(0), pair(1)]))
    assert [one.images for one in found] == [("COCO_0", "COCO_1"), ("COCO_0", "COCO_2")]
    assert [dict(one.scores) for one in found] == [{0: 1.0}, {1: 1.0}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[{", "is no JSON: "),
        ([], "at least one"),
        ({"a": 1}, "a list of questions"),
        ([3], "entry 0: expected question_id, img_id, sent, label, got int"),
        ([{"question_id": 1, "img_id": "a", "sent": "what ?"}], "without answers, and cannot be judged"),
        ([asked(0), asked(1, question_id=0)], r"entry 1 \(0\): this question_id is there a second time"),
        ([asked(0, label={"dog": 1})], r"entry 0 \(0\): its answer 'dog' is none of the 3"),
        ([asked(0, label={"net": 1.5})], "a score above 0 and up to 1 for 'net'"),
        ([asked(0, label={"net": True})], "a score above 0"),
        ([asked(0, label=["net"])], "expected label as answers with their scores"),
        ([asked(0, sent=" ?")], "expected words as sent"),
        ([asked(0, sent=None)], "expected words as sent"),
        ([asked(0, img_id=7)], "expected names of images as img_id"),
    ],
)
def test_broken_questions_are_refused(tmp_path, content, says) -> None:
    with pytest.raises(ValueError, match=says):
        read_questions(written(tmp_path, "q.json", content), ["yes", "net", "netting"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "got dict"),
        ([], "got list"),
        ({"a": 0, "b": 2}, "without a gap"),
        ({"a": 0, "b": 0}, "without a gap"),
        ({"a": True}, "'a': bool True"),
        ({"a": "x"}, "str"),
    ],
)
def test_broken_answers_are_refused(tmp_path, content, says) -> None:
    with pytest.raises(ValueError, match=says):
        read_answers(written(tmp_path, "a.json", content))


@pytest.mark.parametrize("label", [2, True, "1", None])
def test_a_pair_is_true_or_false(tmp_path, label) -> None:
    with pytest.raises(ValueError, match="expected label 0 or 1"):
        read_pairs(written(tmp_path, "p.json", [pair(0, label=label)]))


def test_questions_load_with_words_regions_and_scores(root) -> None:
    bundle = questions(root).load()
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (10, 4, 4)
    assert (bundle.words, bundle.region_dim, bundle.images, bundle.classes) == (len(WORDS), DIM, 1, ["yes", "net", "netting"])
    inputs, scores = bundle.train[0]
    assert [WORDS[word] for word in inputs["input_ids"]] == ["[CLS]", *["what", "color", "is", "the", "ball", "?"], "[SEP]"]
    assert scores.tolist() == [0.0, 1.0, pytest.approx(0.3)]
    assert bundle.train[1][0]["features"][0].shape == (5, DIM)
    assert bundle.said(inputs["input_ids"]) == "what color is the ball?"
    assert any("3 of 10 questions of train have no answer" in note for note in bundle.notes)
    batch, targets = RegionAnswers().collate([bundle.train[0], bundle.train[1]])
    assert batch["input_ids"].shape == (2, 8)
    assert batch["attention_mask"].sum(1).tolist() == [8, 6]
    assert batch["visual_attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["visual_pos"].shape == (2, 5, 4)
    assert targets.shape == (2, 3)


def test_long_sentences_are_cut_and_counted(root) -> None:
    bundle = questions(root, max_words=5).load()
    assert [WORDS[word] for word in bundle.train[0][0]["input_ids"]] == ["[CLS]", "what", "color", "is", "[SEP]"]
    assert any("10 of 10 sentences of train are longer than 5" in note for note in bundle.notes)


def test_pairs_load_in_the_order_of_their_images(root) -> None:
    bundle = pairs(root).load()
    inputs, scores = bundle.train[1]
    assert [len(one) for one in inputs["features"]] == [3, 4]
    assert scores.tolist() == [0.0, 1.0]
    batch, _ = RegionAnswers().collate([bundle.train[0], bundle.train[1]])
    assert batch["visual_feats"].shape == (2, 2, 5, DIM)
    assert batch["visual_attention_mask"].sum(-1).tolist() == [[3, 5], [3, 4]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"regions": ("mscoco_imgfeat/train2014_obj36.tsv",)}, "1 images of questions have no regions .* such as COCO_2"),
        ({"regions": ()}, "features of no numbers"),
        ({"test": ()}, "given as test"),
        ({"test": ("vqa/minival.json", "vqa/nominival.json")}, "2 questions to judge on are among those to train on, such as 8;"),
        ({"answers": "vqa/none.json"}, "is no file; expected answers"),
        ({"base": "/no/such/folder"}, "no tokenizer could be read"),
    ],
)
def test_sets_that_cannot_be_are_refused(root, changes, says) -> None:
    with pytest.raises(ValueError, match=says):
        replace(questions(root), **changes).load()


@pytest.mark.parametrize("name", ["lxmert-catt-vqa", "lxmert-catt-nlvr2"])
def test_the_published_recipe_trains_on_the_true_files(root, name, tmp_path) -> None:
    """From an LXMERT on disk, through tokenizer, regions, clusters and head to metrics and pictures."""
    from tests.models.lxmert.hosts import host

    host("LxmertForPreTraining", vocab_size=len(WORDS), visual_feat_dim=DIM, l_layers=1, r_layers=1, x_layers=2).float().save_pretrained(root / "base")
    recipe = get_recipe(name)
    data = questions(root) if isinstance(recipe.data, LxmertQuestions) else pairs(root)
    model = replace(recipe.model, base=str(root / "base"), entries_vision=4, entries_language=3)
    recipe = replace(recipe, data=data, model=model, steps=2, batch_size=4, eval_every=1, checkpoint_every=2, workers=0, trackers=())
    metrics = fit(recipe, tmp_path / "run", quiet=True)
    assert 0 <= metrics["score"] <= 1
    assert (tmp_path / "run" / "report" / "answers.png").exists() or list((tmp_path / "run").rglob("answers.png"))


def test_settings_of_the_published_recipes() -> None:
    vqa, gqa, nlvr2 = (get_recipe(f"lxmert-catt-{name}") for name in ("vqa", "gqa", "nlvr2"))
    assert [one.optim.lr for one in (vqa, gqa, nlvr2)] == [5e-5, 5e-6, 3e-5]
    assert [one.task.between for one in (vqa, gqa, nlvr2)] == ["each", "each", "answers"]
    for one, mode, share, entries in ((vqa, "single", False, 800), (gqa, "single", False, 800), (nlvr2, "chained", True, 500)):
        assert isinstance(one.model, Lxmert)
        assert (one.model.catt, one.model.share, one.model.entries_vision, one.model.entries_language) == (mode, share, entries, entries)
        assert (one.batch_size, one.optim.weight_decay, one.optim.decay_all, one.optim.clip_grad, one.optim.warmup) == (32, 0.01, True, 5.0, 0.1)
        assert one.model.base == one.data.base == "unc-nlp/lxmert-base-uncased"


SCENES = {count: RegionScenes(images=count, train_scenes=8, val_scenes=2, test_scenes=2) for count in (1, 2)}


@pytest.mark.parametrize("images", [1, 2])
def test_a_scene_is_what_its_answer_says(images) -> None:
    """Read off the things, by rules of the questions' words."""
    data, seen = SCENES[images], []
    for index in range(240):
        question, answer, things, boxes = data.compose("test", index)
        words, named = question.split(), [[(SHAPES[s], ("red", "green", "blue", "yellow", "black")[c]) for s, c in one] for one in things]
        if question.startswith("what color"):
            (want,) = [c for s, c in named[0] if s == words[4]]
        elif question.startswith("what is"):
            (want,) = [s for s, c in named[0] if c == words[3]]
        elif question.startswith("is there"):
            want = "yes" if (words[4], words[3]) in named[0] else "no"
            assert {words[4]} <= {s for s, _ in named[0]}, "its halves are there in any case"
            assert {words[3]} <= {c for _, c in named[0]}
        elif question.startswith("is the"):
            (one,), (two,) = ([box for (s, _), box in zip(named[0], boxes[0], strict=True) if s == name] for name in (words[2], words[6]))
            want = "yes" if (one[0] + one[2]) < (two[0] + two[2]) else "no"
        elif question.startswith("both"):
            want = "true" if all(words[4] in {s for s, _ in one} for one in named) else "false"
        else:
            left, right = ([c for s, c in one if s == words[1]] for one in named)
            assert len(left) == len(right) == 1
            want = "true" if left == right else "false"
        assert answer == want, question
        assert all(len(one) == len(box) == 6 for one, box in zip(things, boxes, strict=True))
        assert all(box.min() >= 0 and box.max() <= 1 and (box[:, 2:] > box[:, :2]).all() for box in boxes)
        seen.append((index % len(KINDS[images]), answer))
    for kind in range(len(KINDS[images])):
        own = [answer for one, answer in seen if one == kind]
        most, options = max(own.count(answer) for answer in own) / len(own), len(set(own))
        assert most < 1 / options + 4 * (1 / options * (1 - 1 / options) / len(own)) ** 0.5


def test_a_prior_is_of_the_training_alone() -> None:
    data = replace(SCENES[1], prior=0.95)
    for split, least in (("train", 0.85), ("test", 0.0)):
        by_question: dict[str, list[str]] = {}
        for index in range(600):
            question, answer, *_ = data.compose(split, index)
            by_question.setdefault(question, []).append(answer)
        shares = [max(map(answers.count, answers)) / len(answers) for answers in by_question.values() if len(answers) >= 10]
        mean = sum(shares) / len(shares)
        assert mean > least if split == "train" else mean < 0.75


def test_chances_and_collating_of_scenes() -> None:
    bundle = SCENES[1].load()
    assert bundle.guessing == pytest.approx((1 / 5 + 1 / 6 + 1 / 2 + 1 / 2) / 4)
    inputs, scores = bundle.train[0]
    assert inputs["features"][0].shape == (6, bundle.region_dim)
    assert scores.sum() == 1
    assert bundle.said(inputs["input_ids"]).startswith("what color is the")
    assert torch.equal(bundle.train[0][0]["features"][0], inputs["features"][0]), "the same when asked again"
