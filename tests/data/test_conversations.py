"""Conversations about videos in the published JSON: what is read, how it becomes words and labels, and files that are broken."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from foveal.lab.data import ClipConversations, VideoConversations, read_conversations
from foveal.lab.data.video_language._prompts import Prompts
from foveal.lab.data.video_language._tiny_processor import tiny_processor
from foveal.lab.recipes import get_recipe, smoke
from foveal.lab.training.optimizing import make_optimizer

pytest.importorskip("transformers")


def entry(**changes: object) -> dict:
    said = [{"from": "human", "value": "<video>\nwhich digit is dim ?"}, {"from": "gpt", "value": "seven"}]
    said += [{"from": "human", "value": "how does bright move ?"}, {"from": "gpt", "value": "counter clockwise"}]
    return {"id": "a", "video": ["a"], "conversations": said} | changes


def written(folder: Path, content: object) -> Path:
    from PIL import Image

    for name, frames in (("a", 3), ("b", 5)):
        (folder / name).mkdir(exist_ok=True)
        for number in range(frames):
            Image.fromarray(np.full((16, 16, 3), 40 * number, np.uint8)).save(folder / name / f"{number:03}.png")
    path = folder / "said.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_published_form_is_read(tmp_path) -> None:
    found = read_conversations(written(tmp_path, [entry(), entry(id=2, video="b")]), tmp_path)
    assert [one.id for one in found] == ["a", "2"]
    assert found[1].video == tmp_path / "b"
    assert found[0].turns == (("<video>\nwhich digit is dim ?", "seven"), ("how does bright move ?", "counter clockwise"))


SAID = entry()["conversations"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[{", "is no JSON: "),
        ([], "at least one"),
        ({"id": 1}, "a list of conversations"),
        (["a"], "entry 0: expected id, video and conversations, got str"),
        ([{"id": 1, "video": "a"}], "got id, video"),
        ([entry(video=["a", "b"])], r"\(a\): expected one video"),
        ([entry(video=[])], "expected one video"),
        ([entry(video=["c"])], r"its video .*c does not exist; .*--data.root"),
        ([entry(conversations=SAID[:3])], "3 of them"),
        ([entry(conversations=SAID[::-1])], "turn 0: expected words from human"),
        ([entry(conversations=[SAID[0], {"from": "gpt", "value": " "}])], "turn 1: expected words from gpt"),
        ([entry(conversations=SAID[2:])], "expected <video> once, in the first question"),
        ([entry(conversations=[*SAID[:2], SAID[0], SAID[1]])], "once, in the first question"),
        ([entry(), entry()], "two conversations are a"),
    ],
)
def test_broken_files_are_refused_before_a_video_is_opened(tmp_path, content, says) -> None:
    with pytest.raises(ValueError, match=says):
        read_conversations(written(tmp_path, content), tmp_path)
    with pytest.raises(ValueError, match="is no file"):
        read_conversations(tmp_path / "none.json", tmp_path)


WORDS = ["which", "digit", "is", "dim", "?", "seven", "how", "does", "bright", "move", "counter", "clockwise"]


def test_labels_are_answers_and_what_ends_them(tmp_path) -> None:
    """From a folder with a processor, as the real one is read."""
    processor = tiny_processor(WORDS, side=16)
    processor.save_pretrained(tmp_path / "base")
    written(tmp_path, [entry(), entry(id="b", video="b")])
    data = VideoConversations(root=tmp_path, train=Path("said.json"), test=Path("said.json"), base=str(tmp_path / "base"), num_probes=3)
    bundle = data.load()
    names = {place: word for word, place in bundle.processor.tokenizer.get_vocab().items()}
    inputs, labels = bundle.train[0]
    text = [names[int(word)] for word in inputs["input_ids"][0]]
    assert [names[int(word)] for word in labels if word != -100] == ["seven", "<|end|>", "counter", "clockwise", "<|end|>"]
    assert text.count("<|video_pad|>") == 3 * 4
    behind = len(text) - 1 - text[::-1].index("<|video_pad|>")
    assert text[behind + 1 : behind + 4] == ["<probe>"] * 3, "behind the last frame"
    assert text.count("<probe>") == 3
    assert inputs["video_grid_thw"].tolist() == [[3, 4, 4]]
    assert bundle.probe_token == bundle.words["size"] - 1
    assert bundle.train[1][0]["video_grid_thw"].tolist() == [[5, 4, 4]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"most_tokens": 11}, "has 12 visual tokens .* at most 11"),
        ({"most_words": 20}, "words in all, and at most 99 and 20"),
        ({"frames": lambda index: (torch.zeros(0, 3, 16, 16, dtype=torch.uint8), [], 1.0)}, "without frames"),
    ],
)
def test_samples_that_cannot_be_are_refused(change, says) -> None:
    given = {"frames": lambda index: (torch.zeros(3, 3, 16, 16, dtype=torch.uint8), [0, 1, 2], 1.0), "most_tokens": 99, "most_words": 99}
    split = Prompts(tiny_processor(WORDS, 16), [(("which digit is dim ?", "seven"),)], probe_word="<probe>", num_probes=0, **given | change)
    with pytest.raises(ValueError, match=says):
        split[0]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(("make", "says"), [("none", "holds no pictures"), ("sizes", "frames of different sizes"), ("file", "cannot read the video")])
def test_videos_that_cannot_be_read_are_refused_at_the_start(make, says, check, tmp_path) -> None:
    from PIL import Image

    tiny_processor(WORDS, side=16).save_pretrained(tmp_path / "base")
    name = "c.mp4" if make == "file" else "c"
    written(tmp_path, "")
    if make == "file":
        pytest.importorskip("av")
        (tmp_path / name).write_text("{")
    else:
        (tmp_path / name).mkdir()
        for side in (16, 32) if make == "sizes" else ():
            Image.new("RGB", (side, 16)).save(tmp_path / name / f"{side}.png")
    (tmp_path / "said.json").write_text(json.dumps([entry(), entry(id="c", video=name)]))
    data = VideoConversations(root=tmp_path, train=Path("said.json"), test=Path("said.json"), base=str(tmp_path / "base"), check=check)
    with pytest.raises(ValueError, match=f"1 of 2 videos cannot be read: .*{says}" if check else says):
        data.load().train[1]


def test_no_processor_is_explained(tmp_path) -> None:
    written(tmp_path, [entry()])
    data = VideoConversations(root=tmp_path, train=Path("said.json"), test=Path("said.json"), base=str(tmp_path / "a"))
    with pytest.raises(ValueError, match="no processor of VideoLLaMA 3 could be read"):
        data.load()


@pytest.mark.parametrize("name", ["viscop-dna", "viscop", "viscop-none"])
def test_the_published_recipe(name) -> None:
    """Its numbers, and what is trained at which rate: every trainable parameter in one group, the probes in none."""
    pytest.importorskip("peft")
    recipe = get_recipe(name)
    optim = recipe.optim
    assert (optim.lr, optim.betas, optim.weight_decay, optim.warmup, optim.clip_grad, optim.schedule) == (1e-5, (0.9, 0.999), 0.0, 0.03, 1.0, "cosine")
    assert (recipe.batch_size, recipe.precision, recipe.data.max_frames, recipe.data.fps) == (128, "bf16", 180, 1.0)
    assert (recipe.model.lora_rank, recipe.model.lora_alpha, recipe.model.dropout) == (64, 16, 0.05)
    small = smoke(recipe)
    bundle = ClipConversations(num_probes=small.data.num_probes, train_clips=1, test_clips=1).load()
    model = small.model.build(**small.task.model_kwargs(bundle))
    assert not any(value.requires_grad for part in ("vision_model", "embed_tokens") for name, value in model.named_parameters() if part in name)
    names, rates = {id(value): name for name, value in model.named_parameters()}, {}
    for group in make_optimizer(model, recipe).param_groups:
        for value in group["params"]:
            assert names[id(value)] not in rates, "in two groups"
            rates[names[id(value)]] = group.get("lr_scale", 1.0) * optim.lr
    assert set(rates) == {name for name, value in model.named_parameters() if value.requires_grad}
    slow = {name for name, rate in rates.items() if rate == pytest.approx(2e-6)}
    assert slow == {name for name in rates if "visual_probes.probes.attentions" in name}
    assert bool(slow) == (name != "viscop-none")
    assert not any(name.endswith("probes.probes") for name in rates), "the authors' omission"
    assert all(rate == pytest.approx(1e-5) for name, rate in rates.items() if name not in slow)
    assert {"projector", "lora_A"} <= {part for name in rates for part in name.split(".")}
