"""Pre-training on regions: what is hidden, the loss by hand, what made sentences say, LXMERT's files in miniature, broken ones, and a BERT to begin with."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foveal.lab.data import LxmertSentences, RegionSentences
from foveal.lab.data.regions.scenes import COLORS, SHAPES
from foveal.lab.tasks import RegionPretraining
from foveal.models import LxmertPretraining
from tests.data.test_regions import DIM, image, packed, tsv

transformers = pytest.importorskip("transformers")
SMALL = LxmertPretraining(width=16, num_heads=2, catt="none", dropout=0.0)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def made():
    bundle, task = RegionSentences(train_scenes=40, val_scenes=8, test_scenes=8).load(), RegionPretraining()
    torch.manual_seed(0)
    model = SMALL.build(**task.model_kwargs(bundle)).eval()
    return bundle, model, *task.collate([bundle.test[n] for n in range(8)])


def test_made_sentences_say_what_is_there() -> None:
    bundle = RegionSentences(train_scenes=4, val_scenes=2, test_scenes=80).load()
    words = ("[PAD]", *[""] * (bundle.words - 1))
    assert len(words) == bundle.words
    hues, matched, statements = list(COLORS), 0, 0
    for index in range(80):
        inputs, labels = bundle.test[index]
        again, _ = bundle.test[index]
        assert torch.equal(inputs["input_ids"], again["input_ids"]), "a test does not change"
        matched += int(labels[0])
        assert inputs["maskable"].tolist() == [False, *[True] * (len(inputs["input_ids"]) - 2), False]
        assert int(inputs["input_ids"].max()) < bundle.mask
        if not labels[0]:
            assert labels[1] == -1
        elif labels[1] < 0:
            statements += 1
            things = {(SHAPES[s], hues[h]) for s, h in zip(inputs["objects"].tolist(), inputs["attributes"].tolist(), strict=True)}
            assert len(inputs["input_ids"]) == 7
            assert things
    assert 25 < matched < 55
    assert statements > 5


@pytest.mark.parametrize("hide", ["either", "both"])
@pytest.mark.parametrize("attend", [False, True])
def test_what_is_hidden(hide, attend, made) -> None:
    _, model, inputs, _ = made
    task = RegionPretraining(hide=hide, share=0.5, attend_hidden=attend)
    torch.manual_seed(1)
    counts = torch.zeros(6)
    for _ in range(60):
        hidden, labels = task.hidden(model, inputs)
        words, regions = labels["words"] != -100, labels["regions"]
        assert not (words & ~inputs["maskable"]).any()
        assert torch.equal(labels["words"][words], inputs["input_ids"][words])
        assert torch.equal(hidden["input_ids"][~words], inputs["input_ids"][~words])
        assert torch.equal(hidden["visual_feats"][~regions], inputs["visual_feats"][~regions])
        assert not (regions & ~inputs["visual_attention_mask"].bool()).any()
        assert torch.equal(hidden["visual_attention_mask"].bool(), inputs["visual_attention_mask"].bool() & (attend | ~regions))
        both = words.any(1) & regions.any(1)
        assert not both.any() if hide == "either" else both.any()
        now = hidden["input_ids"][words]
        zeros = (hidden["visual_feats"] == 0).all(-1) & regions
        counts += torch.tensor([words.sum(), (now == model.mask).sum(), inputs["maskable"].sum(), regions.sum(), zeros.sum(), regions.numel()])
    share = 0.25 if hide == "either" else 0.5
    assert counts[0] / counts[2] == pytest.approx(share, abs=0.06)
    assert counts[3] / counts[5] == pytest.approx(share, abs=0.06)
    assert counts[1] / counts[0] == pytest.approx(0.8, abs=0.05)
    assert counts[4] / counts[3] == pytest.approx(0.8, abs=0.05)


def test_the_loss_is_the_formula(made) -> None:
    _, model, inputs, targets = made
    task = RegionPretraining(hide="both", share=0.4)
    out, given, labels = task.predict(model, inputs)
    loss, right = task._judged(out, given, labels, targets)
    want, regions, count = 0.0, 0.0, 0
    per_word, answered = [], []
    for sample in range(len(targets)):
        for place, word in enumerate(labels["words"][sample].tolist()):
            if word >= 0:
                per_word.append(-out["words"][sample, place].log_softmax(-1)[word])
        want += -out["matched"][sample].log_softmax(-1)[targets[sample, 0]] / len(targets)
        if targets[sample, 1] >= 0:
            answered.append(-out["answers"][sample].log_softmax(-1)[targets[sample, 1]])
        for place in range(inputs["visual_attention_mask"].shape[1]):
            count += int(inputs["visual_attention_mask"][sample, place])
            if labels["regions"][sample, place]:
                off = F.smooth_l1_loss(out["features"][sample, place], inputs["visual_feats"][sample, place])
                regions += off - sum(out[name][sample, place].log_softmax(-1)[inputs[name][sample, place]] for name in ("objects", "attributes"))
    want += sum(per_word) / len(per_word) + sum(answered) / len(answered) + regions / count / 0.4
    torch.testing.assert_close(loss, want)
    assert right["words"][1] == len(per_word)
    # the detector's doubt weighs
    half, _ = task._judged(out, given | {"objects_conf": 0 * given["objects_conf"], "attributes_conf": 0 * given["attributes_conf"]}, labels, targets)
    assert half < loss


def test_a_batch_without_answers_has_a_loss_all_the_same(made) -> None:
    bundle, model, inputs, targets = made
    task = RegionPretraining()
    without = torch.stack([targets[:, 0], torch.full_like(targets[:, 1], -1)], 1)
    out, given, labels = task.predict(model, inputs)
    loss, _ = task._judged(out, given, labels, without)
    assert torch.isfinite(loss)
    metrics = task.metrics(bundle)
    task.update(metrics, (out, given, labels), without)
    assert "answers" not in task.summarize(metrics, bundle)


@pytest.mark.parametrize("catt", ["single", "chained"])
def test_all_that_is_trained_gets_a_gradient(catt, made) -> None:
    bundle, _, inputs, targets = made
    task = RegionPretraining(hide="both", share=0.5)
    model = LxmertPretraining(width=16, num_heads=2, catt=catt, init="normal", entries_vision=5, entries_language=4, dropout=0.0).build(
        **task.model_kwargs(bundle)
    )
    torch.manual_seed(0)
    loss, _ = task.step(model, model, inputs, targets, bundle)
    loss.backward()
    # rows of segments are one row of padding, see docs/lxmert.md
    bare = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not bare


def test_words_are_scored_by_their_embeddings(made) -> None:
    import copy

    _, model, inputs, _ = made
    copied = copy.deepcopy(model)
    state = copied.state_dict()
    assert not any("decoder.weight" in name for name in state)
    with torch.no_grad():
        before = copied(inputs)["words"]
        copied.model.lxmert.embeddings.word_embeddings.weight[5] *= 2
        changed = copied(inputs)["words"]
    assert not torch.equal(before[..., 5], changed[..., 5])
    with torch.no_grad():
        assert torch.equal(model(inputs)["words"], before), "a copy brings its own"
        head, hidden = model.model.cls.predictions, torch.randn(2, 16)
        want = hidden @ model.model.lxmert.embeddings.word_embeddings.weight.T
        torch.testing.assert_close(head.decoder(hidden), want)


def files(root: Path, **changes: object) -> LxmertSentences:
    lines = []
    for number in range(3):
        line, _, _ = image(f"COCO_{number}", 2 + number)
        count = 2 + number
        line |= {"objects_id": packed(np.arange(count, dtype=np.int64)), "objects_conf": packed(np.full(count, 0.5, np.float32))}
        line |= {"attrs_id": packed(np.full(count, 7, np.int64)), "attrs_conf": packed(np.full(count, 0.25, np.float32))}
        lines.append(line)
    tsv(root / "regions.tsv", *lines)
    told = [
        {"img_id": "COCO_0", "sentf": {"mscoco": ["A cat sits.", "Another cat"], "vqa": ["what is it ?"]}, "labelf": {"vqa": [{"The Cat.": 1.0, "odd": 0.3}]}},
        {"img_id": "COCO_1", "sentf": {"vqa": ["what color ?"]}, "labelf": {"vqa": [{"grey": 0.9}]}},
        {"img_id": "COCO_2", "sentf": {"mscoco": ["a dog"]}, "labelf": {}},
    ]
    content = {"train.json": told, "test.json": told[:2], "answers.json": [{"ans": "cat", "dsets": ["vqa"]}, {"ans": "gray", "dsets": ["gqa"]}]} | changes
    for name, value in content.items():
        (root / name).write_text(value if isinstance(value, str) else json.dumps(value))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *["a", "cat", "sits", "another", "what", "is", "it", "color", "dog", "?", "."]]
    (root / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizer(str(root / "vocab.txt")).save_pretrained(root / "base")
    return LxmertSentences(root=root, train=("train.json",), test=("test.json",), answers="answers.json", regions=("regions.tsv",), base=str(root / "base"))


def test_files_in_miniature(tmp_path) -> None:
    bundle = files(tmp_path).load()
    assert (len(bundle.train), len(bundle.test), bundle.region_dim, bundle.classes) == (5, 4, DIM, ["cat", "gray"])
    assert bundle.tokenizer.convert_ids_to_tokens(bundle.mask) == "[MASK]"
    answers = set()
    for _ in range(20):
        for index in range(5):
            inputs, labels = bundle.train[index]
            answers.add((index, *labels.tolist()))
            image_number = (0, 0, 0, 1, 2)[index]
            assert inputs["objects"].tolist() == list(range(2 + image_number))
            assert inputs["attributes_conf"].tolist() == [0.25] * (2 + image_number)
            assert len(inputs["boxes"]) == 2 + image_number
    # of a question's answers those that are known, as the official code writes them; none of another image's
    assert answers == {(0, 1, -1), (0, 0, -1), (1, 1, -1), (1, 0, -1), (2, 1, 0), (2, 0, -1), (3, 1, 1), (3, 0, -1), (4, 1, -1), (4, 0, -1)}
    task = RegionPretraining()
    inputs, targets = task.collate([bundle.train[n] for n in range(5)])
    model = SMALL.build(**task.model_kwargs(bundle))
    loss, _ = task.step(model, model, inputs, targets, bundle)
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.json": "{"}, r"train\.json is no JSON"),
        ({"train.json": []}, "a list of images with sentences, at least one"),
        ({"train.json": [{"img_id": "COCO_0", "sentf": {"vqa": ["..."]}}]}, "expected words as sentence 0 of vqa, got '...'"),
        ({"train.json": [{"img_id": "COCO_0", "sentf": {"vqa": ["a", "b"]}, "labelf": {"vqa": [{}]}}]}, "as many labels"),
        ({"train.json": [{"img_id": "COCO_0", "sentf": {"vqa": ["a"]}, "labelf": {"vqa": [{"cat": 2}]}}]}, "scores above 0 and up to 1"),
        ({"train.json": [{"img_id": "COCO_0", "sentf": {"vqa": ["a"]}, "labelf": {"vqa": [{"cat": 1}]}}]}, "sentences of at least two"),
        ({"answers.json": [{"ans": "horse"}]}, "no sentence to train on has an answer"),
        ({"answers.json": {"cat": 0}}, "expected a list of answers"),
        ({"test.json": [{"img_id": "COCO_0", "sentf": {"a": ["b"]}}, {"img_id": "COCO_9", "sentf": {"a": ["b"]}}]}, "1 images of sentences have no regions"),
    ],
)
def test_broken_files_are_named(changes, said, tmp_path) -> None:
    with pytest.raises(ValueError, match=said):
        files(tmp_path, **changes).load()


def test_objects_that_are_not_as_many_as_regions(tmp_path) -> None:
    data = files(tmp_path)
    line, _, _ = image("COCO_0", 2)
    others = [image(f"COCO_{n}", 2)[0] for n in (1, 2)]
    tsv(tmp_path / "regions.tsv", line | {"objects_id": packed(np.zeros(3, np.int64))}, *others)
    split = data.load().train
    with pytest.raises(ValueError, match="num_boxes is 2, and objects_id holds 3 numbers"):
        split[0]


def test_words_begin_as_a_bert_has_them(tmp_path) -> None:
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64
    )
    bert = transformers.BertModel(config)
    bert.save_pretrained(tmp_path / "bert")
    sizes = {"words": 30, "region_dim": 6, "outputs": 3, "objects": 4, "attributes": 5, "mask": 4}
    made = LxmertPretraining(bert=str(tmp_path / "bert"), width=16, num_heads=2, init="normal").build(**sizes)
    own, theirs = made.model.lxmert.state_dict(), bert.state_dict()
    for name in ("embeddings.word_embeddings.weight", "encoder.layer.1.attention.self.query.weight", "pooler.dense.bias"):
        assert torch.equal(own[name], theirs[name])
    assert torch.equal(own["encoder.catt.layer.0.intermediate.dense.weight"], theirs["encoder.layer.1.intermediate.dense.weight"])
    with pytest.raises(ValueError, match=r"cannot begin this LXMERT: .* is \(30, 32\) here"):
        LxmertPretraining(bert=str(tmp_path / "bert"), width=32, num_heads=2).build(**sizes)
    with pytest.raises(ValueError, match="the BERT lacks it"):
        LxmertPretraining(bert=str(tmp_path / "bert"), width=16, num_heads=2, l_layers=4).build(**sizes)
    with pytest.raises(ValueError, match="no BERT could be read at"):
        LxmertPretraining(bert=str(tmp_path / "nothing"), width=16, num_heads=2).build(**sizes)
    with pytest.raises(ValueError, match="is to be pre-trained"):
        LxmertPretraining(base="somewhere").build(**sizes)
