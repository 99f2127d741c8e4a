"""Probes in transformers' own VideoLLaMA 3: where they are put, generation, Trainer, adapters, what is saved, what is refused, the size of the 7B."""

import copy

import pytest
import torch
from torch import Tensor, nn

from foveal.models import VisualProbes
from foveal.models.video_language import attach_probes_, attached_probes, load_attached, save_attached, with_probe_words
from tests.attention.contract import assert_close

transformers = pytest.importorskip("transformers")
from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration  # noqa: E402

DIM, WIDTH, WORDS, PATCH, PROBES = 16, 20, 48, 2, 3
IMAGE, VIDEO, PROBE = 45, 46, 47
GRIDS = [(2, 4, 4), (3, 4, 2)]


def host(seed: int = 0) -> VideoLlama3ForConditionalGeneration:
    torch.manual_seed(seed)
    vision = {"hidden_size": DIM, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": PATCH}
    text = {"model_type": "qwen2", "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 1, "vocab_size": WORDS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
    return VideoLlama3ForConditionalGeneration(
        VideoLlama3Config(text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO, pad_token_id=0)
    ).eval()


def attached(seed: int = 0, **options: object) -> VideoLlama3ForConditionalGeneration:
    model = host()
    torch.manual_seed(seed + 1)
    attach_probes_(model, VisualProbes(DIM, 2, [0, 2], PROBES, **{"depth": 3} | options), PROBE)
    return model.eval()


def row(grid: tuple[int, int, int], *question: int, token: int = VIDEO, probes: int = PROBES) -> list[int]:
    t, h, w = grid
    return [1, *[token] * (t * h * w // 4), *[PROBE] * probes, *question]


def batch(*rows: list[int], grids: list = GRIDS, kind: str = "video") -> dict[str, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(one)) + one for one in rows])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in rows])
    return {"input_ids": ids, "attention_mask": mask, **pixels(grids, kind)}


def pixels(grids: list, kind: str = "video", seed: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    count = sum(t * h * w for t, h, w in grids)
    name = {"video": "pixel_values_videos", "image": "pixel_values"}[kind]
    return {name: torch.randn(count, 3 * PATCH**2), f"{kind}_grid_thw": torch.tensor(grids), f"{kind}_merge_sizes": torch.full((len(grids),), 2)}


def both() -> dict[str, Tensor]:
    return batch(row(GRIDS[0], 7, 8), row(GRIDS[1], 9))


def test_probes_stand_where_their_words_do() -> None:
    """By hand: layers of the tower run alone, probes of each video alone, the projector, and a language model that is given vectors."""
    model, given = attached(time=4, time_std=1.0), both()
    out = model(**given)
    parts, inner = attached_probes(model), model.model
    embeds, at = inner.get_input_embeddings()(given["input_ids"]), 0
    for sample, grid in enumerate(GRIDS):
        size = torch.tensor(grid).prod().item()
        rows = {"pixel_values": given["pixel_values_videos"][at : at + size], "grid_thw": torch.tensor([grid]), "merge_sizes": torch.tensor([2])}
        plain = host().model.vision_model
        seen, at = plain(**rows, output_hidden_states=True), at + size
        frames = torch.arange(grid[0]).repeat_interleave(grid[1] * grid[2])
        read = parts.probes([layer[None] for layer in seen.hidden_states[1:]], frame=frames)
        embeds[sample][given["input_ids"][sample] == PROBE] = parts.project(read[0])
        embeds[sample][given["input_ids"][sample] == VIDEO] = inner.projector(seen.last_hidden_state)
    want = host()(inputs_embeds=embeds, attention_mask=given["attention_mask"]).logits
    seen = given["attention_mask"].bool()
    assert_close(out.logits[seen], want[seen], 1e-5, "logits")
    assert 0 < parts.similarity < 1


def test_the_tower_runs_once_and_nothing_of_the_host_is_changed() -> None:
    model, bare = attached(), host()
    calls = []
    model.model.vision_model.register_forward_hook(lambda *_: calls.append(1))
    model(**both())
    assert len(calls) == 1
    mine = model.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in bare.state_dict().items())
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == []
    text = {"input_ids": torch.tensor([[1, 7, 8]])}
    assert torch.equal(model(**text).logits, bare(**text).logits), "words alone are read as ever"
    assert torch.equal(attached_probes(model).project.readout[0].weight, bare.model.projector.readout[0].weight)


def test_generation_is_the_loop_and_a_padded_batch_its_samples() -> None:
    model, given = attached(), both()
    said = model.generate(**given, max_new_tokens=4, do_sample=False)
    want = given
    for _ in range(4):
        word = model(**want).logits[:, -1].argmax(-1)[:, None]
        want = want | {"input_ids": torch.cat([want["input_ids"], word], 1), "attention_mask": torch.cat([want["attention_mask"], torch.ones_like(word)], 1)}
    assert torch.equal(said, want["input_ids"])
    beams = model.generate(**given, max_new_tokens=4, num_beams=3, do_sample=False)
    second = batch(row(GRIDS[1], 9), grids=GRIDS[1:]) | {"pixel_values_videos": given["pixel_values_videos"][32:]}
    assert torch.equal(model.generate(**second, max_new_tokens=4, do_sample=False)[0, -4:], said[1, -4:])
    assert torch.equal(model.generate(**second, max_new_tokens=4, num_beams=3, do_sample=False)[0, -4:], beams[1, -4:])


def test_beams_of_a_sample_have_its_probes() -> None:
    model, given, put = attached(), both(), list[Tensor]()
    model.model.language_model.register_forward_pre_hook(lambda _, args, options: put.append(options["inputs_embeds"]), with_kwargs=True)
    model(**given)
    model.generate(**given, max_new_tokens=1, num_beams=3, do_sample=False)
    assert (put[0][0, 9:12] - put[0][1, 9:12]).abs().max() > 1e-4
    assert torch.equal(put[1], put[0].repeat_interleave(3, 0))


def test_images_and_videos_in_one_prompt_get_their_own() -> None:
    """A video in front of an image, though images are looked at first: their own probes, and not one another's."""
    model = attached()
    video, image = (2, 4, 4), (1, 4, 4)
    ids = torch.tensor([[*row(video, 7), *row(image, 8, token=IMAGE)[1:]]])
    given = {"input_ids": ids, **pixels([video]), **pixels([image], "image", seed=9)}
    put: list[Tensor] = []
    model.model.language_model.register_forward_pre_hook(lambda _, args, options: put.append(options["inputs_embeds"]), with_kwargs=True)
    model(**given)
    model(**batch(row(video, 7), grids=[video]))
    model(**{"input_ids": torch.tensor([row(image, 8, token=IMAGE)]), **pixels([image], "image", seed=9)})
    words = (ids[0], torch.tensor(row(video, 7)), torch.tensor(row(image, 8)))
    together, first, second = (embeds[0, one == PROBE] for embeds, one in zip(put, words, strict=True))
    assert_close(together, torch.cat([first, second]), 1e-6, "probes")
    assert (first - second).abs().max() > 1e-4


def test_compressed_videos_keep_their_probes() -> None:
    model = attached()
    kept = torch.tensor([True, False] * 4 + [True] * 6)
    rows = [[1, *[VIDEO] * 4, *[PROBE] * PROBES, 7], [1, *[VIDEO] * 6, *[PROBE] * PROBES, 9]]
    assert model(**batch(*rows), video_compression_mask=kept).logits.isfinite().all()


def test_trainer_trains_it_and_all_new_parts_move(tmp_path) -> None:
    model = attached()
    model.requires_grad_(False)
    attached_probes(model).requires_grad_(True)
    before = {name: value.clone() for name, value in model.named_parameters()}
    given = both()
    labels = given["input_ids"].masked_fill(torch.arange(given["input_ids"].shape[1]) < given["input_ids"].shape[1] - 1, -100)

    class Clips(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> int:
            return index

    options = {"per_device_train_batch_size": 2, "max_steps": 2, "learning_rate": 1e-2, "report_to": [], "use_cpu": True, "disable_tqdm": True}
    arguments = transformers.TrainingArguments(tmp_path, **options, remove_unused_columns=False, save_strategy="no", activation_checkpointing=True)
    losses: list[float] = []

    class Trainer(transformers.Trainer):
        def compute_loss(self, *args: object, **kwargs: object) -> object:
            out = super().compute_loss(*args, **kwargs)
            losses.append((out[0] if isinstance(out, tuple) else out).item())
            return out

    Trainer(model, arguments, train_dataset=Clips(), data_collator=lambda _: {**given, "labels": labels}).train()
    assert losses[1] < losses[0]
    for name, value in model.named_parameters():
        if "visual_probes" not in name:
            assert torch.equal(value, before[name]), name
        else:
            assert not torch.equal(value, before[name]), name


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("first", ["probes", "adapters"])
def test_adapters_stand_beside_probes_and_come_back(first, tmp_path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=r".*language_model\.layers\..*\.(q|k|v|o|gate|up|down)_proj", init_lora_weights=False)

    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        if first == "probes":
            model = peft.get_peft_model(attached(seed), config)
            # peft freezes all that is no adapter
            attached_probes(model).requires_grad_(True)
            return model
        model = peft.get_peft_model(host(), config)
        torch.manual_seed(seed + 1)
        attach_probes_(model, VisualProbes(DIM, 2, [0, 2], PROBES, depth=3), PROBE)
        return model

    model, other, given = made(0), made(5), both()
    labels = given["input_ids"].masked_fill(torch.arange(given["input_ids"].shape[1]) < 12, -100)
    model.train()(**given, labels=labels).loss.backward()
    trained = {name for name, value in model.named_parameters() if value.grad is not None}
    assert sum(".lora_" in name for name in trained) == 28
    assert trained == {name for name, value in model.named_parameters() if ".lora_" in name or "visual_probes" in name}
    model.eval()
    other.eval()
    want = model(**given).logits
    assert (other(**given).logits - want).abs().max() > 1e-4
    names = save_attached(model, tmp_path / "new.safetensors")
    assert sum(".lora_" in name for name in names) == 28
    load_attached(other, tmp_path / "new.safetensors")
    assert torch.equal(other(**given).logits, want)


def test_another_host_refuses_the_file(tmp_path) -> None:
    model = attached()
    with pytest.raises(ValueError, match="weights of the hosts are trained"):
        save_attached(model, tmp_path / "new.safetensors")
    model.requires_grad_(False)
    save_attached(model, tmp_path / "new.safetensors")
    other = attached(seed=5).requires_grad_(False)
    before = copy.deepcopy(other.state_dict())
    with torch.no_grad():
        other.lm_head.weight[0].neg_()
        before["lm_head.weight"] = other.lm_head.weight.clone()
    with pytest.raises(ValueError, match="another tower or language model"):
        load_attached(other, tmp_path / "new.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_a_copy_reads_its_own_probes() -> None:
    model = attached()
    other, given = copy.deepcopy(model), both()
    with torch.no_grad():
        attached_probes(other).probes.probes.add_(1)
    assert torch.equal(model(**given).logits, attached()(**given).logits)
    assert (other(**given).logits - model(**given).logits).abs().max() > 1e-4


def test_bfloat16_and_half_precision_run() -> None:
    model = attached().bfloat16()
    given = both()
    assert model(**given | {"pixel_values_videos": given["pixel_values_videos"].bfloat16()}).logits.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert attached()(**given).logits.isfinite().all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda given: {"input_ids": given["input_ids"].masked_fill(given["input_ids"] == PROBE, 5)}, "sample 0 has 0 words 47 for probes .* and 3 probes"),
        (lambda given: batch(row(GRIDS[0], 7, probes=2), row(GRIDS[1], 9, probes=4)), "sample 0 has 2 words 47"),
        (lambda given: batch(row(GRIDS[0], 7), row(GRIDS[1], PROBE)), "sample 1 has 4 words 47"),
        (lambda given: batch([PROBE, *row(GRIDS[0], 7)], row(GRIDS[1], 9)), "sample 0 has words 47 for probes that stand behind no image or video"),
        (lambda given: {"pixel_values_videos": None}, "neither an image nor a video"),
        (lambda given: {"input_ids": None, "inputs_embeds": torch.randn(2, 14, WIDTH)}, "give input_ids"),
        (lambda given: {"input_ids": given["input_ids"].masked_fill(given["input_ids"] == VIDEO, 5)}, "(?i)tokens: 0, features: 14"),
    ],
)
def test_words_that_do_not_fit_are_refused(change, says) -> None:
    given = both()
    with pytest.raises(ValueError, match=says):
        attached()(**given | change(given))


@pytest.mark.parametrize(
    ("probes", "token", "says"),
    [
        ({"dim": 8}, PROBE, "width 16 for layers 0 to 2, got width 8"),
        ({"layers": [3]}, PROBE, r"got width 16 and layers \[3\]"),
        ({}, VIDEO, "neither that of images nor of videos"),
        ({}, WORDS, "must be a word of the 48"),
    ],
)
def test_what_cannot_be_attached_is_refused(probes, token, says) -> None:
    model = host()
    with pytest.raises(ValueError, match=says):
        attach_probes_(model, VisualProbes(**{"dim": DIM, "num_heads": 2, "layers": [0], "num_probes": PROBES} | probes), token)
    assert not hasattr(model.model, "visual_probes")


def test_it_is_attached_once_and_to_such_hosts_alone() -> None:
    with pytest.raises(ValueError, match="already"):
        attach_probes_(attached(), VisualProbes(DIM, 2, [0]), PROBE)
    with pytest.raises(ValueError, match="expected a VideoLlama3ForConditionalGeneration"):
        attach_probes_(nn.Linear(2, 2), VisualProbes(DIM, 2, [0]), PROBE)
    with pytest.raises(ValueError, match="has no probes"):
        attached_probes(host())


def test_a_prompt_gets_its_words() -> None:
    assert with_probe_words("a <v> b <v>", "<v>", "<p>", 2) == "a <v><p><p> b <v><p><p>"
    with pytest.raises(ValueError, match="'<v>' in the prompt"):
        with_probe_words("a b", "<v>", "<p>", 2)


def test_the_7b_is_as_large_as_it_is_said_to_be() -> None:
    """On the meta device: nothing of this size is run here."""
    text = {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    text |= {"num_key_value_heads": 4, "vocab_size": 152064}
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14}
    with torch.device("meta"):
        model = VideoLlama3ForConditionalGeneration(VideoLlama3Config(text_config=text, vision_config=vision))

    def count(module: nn.Module) -> int:
        return sum(value.numel() for value in module.parameters())

    assert count(model) == 8_044_744_944
    assert count(model.model.vision_model) == 412_147_440
    assert count(model.model.projector) == 16_980_992
    parts = attach_probes_(model, VisualProbes(1152, 16, range(27), attention="denoising", form="published", device="meta"), 151_700)
    assert count(parts.probes.attentions) == 215_177_904
    assert parts.probes.probes.numel() == 18_432
    assert count(model) == 8_044_744_944 + 215_177_904 + 18_432 + 16_980_992
