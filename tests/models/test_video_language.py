"""A language model that is shown videos: towers, words and vectors, padding, generation, what is saved, what is refused."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.models import VideoLanguageModel, VisualProbes
from foveal.models.video_language import read_tower
from tests.attention.contract import assert_close

transformers = pytest.importorskip("transformers")

DIM, WIDTH, WORDS, FRAMES, PROBES = 16, 20, 40, 3, 3
VIDEO, PROBE = 38, 39
PATCHES = 4


def siglip() -> nn.Module:
    sizes = {"hidden_size": DIM, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**sizes, vision_use_head=False))


def dinov2() -> nn.Module:
    sizes = {"hidden_size": DIM, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    return transformers.Dinov2Model(transformers.Dinov2Config(**sizes))


def of_timm() -> nn.Module:
    return timm.create_model("test_vit", img_size=8, patch_size=4, embed_dim=DIM, num_heads=2, depth=3, num_classes=0)


TOWERS = [siglip, dinov2, of_timm]


def language() -> nn.Module:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": WORDS}
    # no word ends an answer, so that all are of one length
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=None))


def gpt2() -> nn.Module:
    """Its positions are absolute: those of padding on the left would be seen."""
    sizes = {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": WORDS}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=None))


def model(tower=siglip, tokens: str = "patches", probes: bool = True, seed: int = 0, words=language, **options: object) -> VideoLanguageModel:
    torch.manual_seed(0)
    hosts = tower(), words()
    torch.manual_seed(seed)
    reads = VisualProbes(DIM, 2, [0, 2], PROBES, **options) if probes else None
    stand = {"video_token": None if tokens == "none" else VIDEO, "probe_token": PROBE if probes else None}
    return VideoLanguageModel(*hosts, DIM, probes=reads, tokens=tokens, **stand).double().eval()


def sample(question: list[int], frames: int = FRAMES, tokens: str = "patches", probes: bool = True) -> list[int]:
    of_frame = {"patches": PATCHES, "pooled": 1, "none": 0}[tokens]
    return [1, *[VIDEO] * (of_frame * frames), *[PROBE] * (PROBES * probes), *question]


def padded(*rows: list[int]) -> tuple[Tensor, Tensor]:
    """On the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])


def videos(batch: int = 2, frames: int = FRAMES) -> Tensor:
    torch.manual_seed(5)
    return torch.randn(batch, frames, 3, 8, 8, dtype=torch.float64)


# -- towers -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tower", TOWERS)
def test_layers_are_what_comes_out_of_the_blocks(tower) -> None:
    torch.manual_seed(0)
    one, images, seen = tower().eval(), torch.randn(2, 3, 8, 8), []
    blocks = one.blocks if tower is of_timm else next(part for part in one.modules() if isinstance(part, nn.ModuleList) and len(part) == 3)
    for block in blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
    got = read_tower(one, images)
    assert len(seen) == len(got.layers) == 3
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(got.layers, seen, strict=True))
    last = one.norm(seen[-1]) if tower is of_timm else one(pixel_values=images).last_hidden_state
    assert torch.equal(got.patches, last[:, -PATCHES:]), "without what stands in front"


@pytest.mark.parametrize(
    ("tower", "says"),
    [
        (lambda: nn.Linear(3, 3), "no tower whose layers can be read; give one of timm, transformers"),
        (lambda: timm.create_model("test_resnet"), "no vision transformer"),
        (language, "no tower of images"),
    ],
)
def test_other_towers_are_refused(tower, says) -> None:
    with pytest.raises(ValueError, match=says):
        read_tower(tower(), torch.randn(1, 3, 32, 32))


# -- words and vectors --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize(("tokens", "probes"), [("patches", True), ("pooled", True), ("none", True), ("patches", False)])
def test_vectors_stand_where_their_words_are(tower, tokens, probes) -> None:
    net, clips = model(tower, tokens, probes), videos()
    ids, mask = padded(sample([7, 8], tokens=tokens, probes=probes), sample([9], tokens=tokens, probes=probes))
    embeds, _ = net.embed(ids, clips, mask)
    table = net.language.get_input_embeddings().weight
    for at, row in enumerate(ids.tolist()):
        seen = read_tower(net.tower, clips[at])
        want = table[ids[at]].clone()
        if tokens != "none":
            given = seen.patches.flatten(0, 1) if tokens == "patches" else seen.patches.mean(1)
            want[[place for place, word in enumerate(row) if word == VIDEO]] = net.project(given)
        if probes:
            read = net.probes([layer.flatten(0, 1)[None] for layer in seen.layers])
            want[[place for place, word in enumerate(row) if word == PROBE]] = net.project_probes(read[0])
        assert_close(embeds[at], want, 1e-10, f"sample {at}")


def test_loss_is_that_of_the_answers_and_reaches_all_new_parts() -> None:
    net, clips = model().train(), videos()
    ids, mask = padded(sample([7, 8, 9]), sample([9, 4]))
    labels = torch.full_like(ids, -100)
    labels[:, -2:] = ids[:, -2:]
    out = net(ids, clips, mask, labels)
    want = F.cross_entropy(out.logits[:, -3:-1].flatten(0, 1), ids[:, -2:].flatten())
    assert_close(out.loss, want, 1e-6, "loss")
    out.loss.backward()
    assert not any(parameter.grad is not None for parameter in net.tower.parameters())
    assert not net.tower.training
    for name, parameter in net.named_parameters():
        if not name.startswith("tower."):
            assert parameter.grad is not None, name


def test_every_trainable_parameter_is_in_one_group_and_moves() -> None:
    net, clips = model(time=FRAMES).train(), videos()
    groups = net.groups()
    grouped = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in net.parameters() if parameter.requires_grad)
    assert [id(parameter) for parameter in groups["probes"]] == [id(net.probes.probes), id(net.probes.time_embed)]
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    optimizer = torch.optim.AdamW([{"params": group, "lr": 1e-2} for group in groups.values()], weight_decay=0.0)
    ids, mask = padded(sample([7, 8]), sample([9, 3]))
    net(ids, clips, mask, torch.where(torch.arange(ids.shape[1]) >= ids.shape[1] - 2, ids, -100)).loss.backward()
    optimizer.step()
    for name, value in net.named_parameters():
        if name.startswith("tower."):
            assert torch.equal(value, before[name])
        else:
            assert not torch.equal(value, before[name]), name


# -- padding and generation ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [language, gpt2])
@pytest.mark.parametrize("tokens", ["patches", "none"])
def test_a_padded_batch_is_its_samples(tokens, words) -> None:
    """Words padded on the left, and a video of fewer frames."""
    net, clips = model(tokens=tokens, words=words, time=FRAMES, time_std=1.0), videos()
    rows = [sample([9], 2, tokens=tokens), sample([7, 8, 9], tokens=tokens)]
    frames = torch.tensor([[True, True, False], [True] * 3])
    ids, mask = padded(*rows)
    got, said = net(ids, clips, mask, frames=frames).logits, net.generate(ids, clips, mask, frames, max_new_tokens=6, do_sample=False)
    assert said.shape == (2, 6)
    for at, (row, count) in enumerate(zip(rows, (2, 3), strict=True)):
        alone = torch.tensor([row]), clips[at : at + 1, :count]
        assert_close(got[at, -len(row) :], net(*alone).logits[0], 1e-6, "logits")
        assert torch.equal(said[at], net.generate(*alone, max_new_tokens=6, do_sample=False)[0])
    turned = torch.tensor([[*row, *[0] * (ids.shape[1] - len(row))] for row in rows])
    assert_close(net(turned, clips, turned != 0, frames=frames).logits[0, : len(rows[0])], got[0, -len(rows[0]) :], 1e-6, "padded on the right")


@pytest.mark.parametrize("words", [language, gpt2])
def test_generation_with_a_cache_is_the_loop_without(words) -> None:
    net, clips = model(words=words), videos()
    ids, mask = padded(sample([7, 8, 9]), sample([9]))
    want = ids
    for step in range(5):
        word = net(want, clips, torch.cat([mask, mask.new_ones(2, step)], 1)).logits[:, -1].argmax(-1)
        want = torch.cat([want, word[:, None]], 1)
    for use_cache in (True, False):
        assert torch.equal(net.generate(ids, clips, mask, max_new_tokens=5, do_sample=False, use_cache=use_cache), want[:, ids.shape[1] :])


def test_the_video_is_looked_at() -> None:
    net, (ids, _) = model(tokens="none"), padded(sample([7, 8], tokens="none"))
    clip = videos(1)
    before = net(ids, clip).logits
    assert (net(ids, clip + 1).logits - before).abs().max() > 1e-4
    assert_close(net(ids, clip.flip(1)).logits, before, 1e-9, "probes without time are blind to the order of frames")


def test_bfloat16_is_finite() -> None:
    net, (ids, mask) = model().bfloat16(), padded(sample([7, 8]), sample([9]))
    assert net(ids, videos().bfloat16(), mask).logits.isfinite().all()


def test_vectors_are_made_as_long_as_words() -> None:
    net, clips = model(), videos()
    with torch.no_grad():
        net.language.get_input_embeddings().weight.mul_(25)
    wanted = net.calibrate_(clips)
    assert wanted == pytest.approx(net.language.get_input_embeddings().weight.norm(dim=-1).mean().item(), rel=1e-5)
    ids, _ = padded(sample([7]), sample([7]))
    embeds, _ = net.embed(ids, clips)
    for word in (VIDEO, PROBE):
        assert embeds[ids == word].norm(dim=-1).mean().item() == pytest.approx(wanted, rel=1e-5)


# -- what is saved --------------------------------------------------------------------------------------------------------------------------------------


def frozen(net: VideoLanguageModel) -> VideoLanguageModel:
    net.language.requires_grad_(False)
    return net


def test_new_parts_come_back_without_the_hosts(tmp_path) -> None:
    net, other, clips = frozen(model()), model(seed=9), videos()
    ids, mask = padded(sample([7, 8]), sample([9]))
    want = net(ids, clips, mask).logits
    assert (other(ids, clips, mask).logits - want).abs().max() > 1e-4
    names = net.save_new(tmp_path / "new.safetensors")
    assert names
    assert not [name for name in names if name.startswith(("tower.", "language."))]
    assert {name.partition(".")[0] for name in names} == {"probes", "project", "project_probes"}
    other.load_new(tmp_path / "new.safetensors")
    assert torch.equal(other(ids, clips, mask).logits, want)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_are_new_parts(tmp_path) -> None:
    peft = pytest.importorskip("peft")

    def adapted(seed: int) -> VideoLanguageModel:
        net = model(seed=seed)
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=2, target_modules=r".*layers\..*\.(q|v)_proj", init_lora_weights=False)
        net.language = peft.get_peft_model(net.language, config)
        return net.double().eval()

    net, other, clips = adapted(0), adapted(7), videos(1)
    ids, mask = padded(sample([7, 8]))
    assert {"lora_A", "lora_B"} <= {part for name, value in net.named_parameters() if value.requires_grad for part in name.split(".")}
    names = net.save_new(tmp_path / "new.safetensors")
    assert sum(".lora_" in name for name in names) == 8
    other.load_new(tmp_path / "new.safetensors")
    assert torch.equal(other(ids, clips, mask).logits, net(ids, clips, mask).logits)
    assert torch.equal(other.generate(ids, clips, max_new_tokens=4, do_sample=False), net.generate(ids, clips, max_new_tokens=4, do_sample=False))
    with pytest.raises(ValueError, match="left over language"):
        model().load_new(tmp_path / "new.safetensors")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda net: net.language.lm_head.weight.data[0].neg_(), "another tower or language model"),
        (lambda net: next(net.tower.parameters()).data.add_(1), "another tower or language model"),
        (lambda net: setattr(net, "probes", VisualProbes(DIM, 2, [0, 1], PROBES).double()), r"layers.*\[0, 1\]"),
        (lambda net: setattr(net, "tokens", "pooled"), "tokens pooled here, patches there"),
        (lambda net: net.project.float(), "project.0.weight is torch.float64, wanted torch.float32"),
        (lambda net: setattr(net, "project", nn.Sequential(nn.Linear(DIM, WIDTH))), "left over project.2"),
    ],
)
def test_another_model_refuses_the_file_and_stays(tmp_path, change, says) -> None:
    frozen(model()).save_new(tmp_path / "new.safetensors")
    other = model(seed=9)
    change(other)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=says):
        other.load_new(tmp_path / "new.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_files_that_are_none_are_refused(tmp_path) -> None:
    net = frozen(model())
    with pytest.raises(ValueError, match="is no file"):
        net.load_new(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"x" * 99)
    with pytest.raises(ValueError, match="damaged"):
        net.load_new(tmp_path / "bad")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="holds no new parts"):
        net.load_new(tmp_path / "other")


def test_trained_hosts_are_not_lost(tmp_path) -> None:
    with pytest.raises(ValueError, match="weights of the hosts are trained"):
        model().save_new(tmp_path / "new.safetensors")
    assert not list(tmp_path.iterdir())


# -- bad input ------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda ids, clips: (ids[:, 1:].roll(1), clips), None),
        (lambda ids, clips: (torch.where(ids == PROBE, 5, ids), clips), "sample 0 has 0 words 39 for probes and 3 probes"),
        (lambda ids, clips: (ids, clips[:, :2]), "sample 0 has 12 words 38 for visual tokens and 8 visual tokens"),
        (lambda ids, clips: (ids, clips[:, :0]), "at least one frame"),
        (lambda ids, clips: (ids, clips, None, None, torch.tensor([[True] * 3, [False] * 3])), "video 1 has no frames"),
        (lambda ids, clips: (ids, clips, None, None, torch.ones(2, 2, dtype=torch.bool)), r"frames as bool \(B, T\) = \(2, 3\)"),
        (lambda ids, clips: (ids, clips[:1]), "with B=2"),
        (lambda ids, clips: (ids, clips[:, 0]), r"videos \(B, T, 3, H, W\)"),
        (lambda ids, clips: (ids, clips.float()), "dtype"),
        (lambda ids, clips: (ids, clips, torch.ones(2, 3)), "attention_mask"),
        (lambda ids, clips: (ids, clips, None, ids), "labels ask for words"),
    ],
)
def test_bad_input_is_explained(given, says) -> None:
    net, (ids, _) = model(), padded(sample([7, 8]), sample([9, 3]))
    arguments = given(ids, videos())
    if says is None:
        assert net(*arguments).logits.isfinite().all()
        return
    with pytest.raises(ValueError, match=says):
        net(*arguments)


def test_a_word_more_here_and_one_less_there_is_refused() -> None:
    """Over the batch they would be as many, and a vector would go to the wrong sample."""
    net = model()
    ids = torch.tensor([[*sample([7]), PROBE], [*sample([9])[:-2], 9, 9, 9]])
    assert (ids == PROBE).sum() == 2 * PROBES
    with pytest.raises(ValueError, match="sample 0 has 4 words"):
        net(ids, videos())


def test_padding_on_the_right_cannot_be_gone_on_from() -> None:
    ids, mask = padded(sample([7, 8]), sample([9]))
    with pytest.raises(ValueError, match="pad on the left"):
        model().generate(ids, videos(), mask.flip(1))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tokens": "patch"}, "did you mean patches"),
        ({"tokens": "none"}, "needs something of the video"),
        ({}, "video_token is the word"),
        ({"video_token": 40}, "not in the vocabulary of 40"),
        ({"video_token": 3, "probe_token": 4}, "this model has none"),
        ({"video_token": 3, "probes": VisualProbes(DIM, 2, [0])}, "probe_token is the word"),
        ({"video_token": 3, "probe_token": 3, "probes": VisualProbes(DIM, 2, [0])}, "two words"),
        ({"video_token": 3, "probe_token": 4, "probes": VisualProbes(2 * DIM, 2, [0])}, "width 32"),
    ],
)
def test_bad_builds_are_explained(options, says) -> None:
    with pytest.raises(ValueError, match=says):
        VideoLanguageModel(siglip(), language(), DIM, **options)
    if not options:
        with pytest.raises(ValueError, match="made for 4"):
            model(depth=4)(padded(sample([7]))[0], videos(1))
