"""The second registration: what it says of its arms is what is built, its tasks are what they say, and both registrations make one page."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import foveal.lab.study
from foveal import InputError
from foveal.analysis import principal_angles
from foveal.attention import create_attention
from foveal.cli import main
from foveal.lab.data import ClutteredDigits
from foveal.lab.data.cluttered import _distractors
from foveal.lab.study import load_registration, load_study, run_study
from foveal.lab.study.angles import cause_of, chance_of, correlated, mean_angle
from foveal.lab.study.change import PHOTOS, ChangeHead, changed_scenes
from foveal.lab.study.images import SMALL, angles_of_run, image_recipe
from foveal.lab.study.kinds import KINDS
from foveal.lab.study.registration import Claim, read_registration
from foveal.lab.study.results import _differences
from foveal.lab.study.retrofit import change_
from foveal.lab.study.single_layer import judge_layer, make_layer, one_of_many, train_layer
from foveal.lab.study.unit import Unit
from foveal.lab.training.models import build_model, load_run

STUDY = load_registration("denoising-second")
FILE = Path(foveal.lab.study.__file__).with_name("denoising-second.toml")


def test_what_is_registered() -> None:
    assert load_study("denoising") == (load_registration("denoising"), STUDY)
    assert [one.id for one in STUDY.hypotheses if one.primary] == ["S3", "S5", "P1", "P2", "S6", "S4"]
    first = {seed for part in load_registration("denoising").parts.values() for seed in (*part.seeds, *part.tuning_seeds)}
    seen_before = {*range(16), *range(990, 995), *first}
    for part in STUDY.parts.values():
        assert not seen_before & {*part.seeds, *part.tuning_seeds}
        assert len(part.seeds) >= (12 if part.name in ("S4", "S5") else 8)
    assert list(STUDY.titles) == list(STUDY.parts) == list(STUDY.of(["P1"]).titles)


def test_arms_are_built_as_they_are_written_down() -> None:
    """Heads and options of the file, through another door: the attention of each network has the weights that they make."""
    for part in STUDY.parts.values():
        for arm, layer in STUDY.arms_of(part).items():
            net = KINDS[part.kind].build(part, arm, layer, part.settings[-1])
            found = [module for module in net.modules() if hasattr(module, "num_heads") and hasattr(module, "qkv")]
            width = part.width or 48
            wanted = create_attention(layer.attention, width, layer.heads, qkv_bias=found[0].qkv.bias is not None, **layer.options)
            counts = [sum(p.numel() for p in module.parameters()) for module in found]
            assert counts == [sum(p.numel() for p in wanted.parameters())] * len(counts), (part.name, arm)
            assert len(found) == (part.depth_in(part.settings[-1]) or 1), (part.name, arm)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('beyond = "N 16"', 'beyond = "N 17"', "setting of hypothesis S3 'N 17'"),
        ('is = "below zero", metric', 'is = "below zero", against = "softmax-wide", metric', "one of the two"),
        ('is = "at limit", at = "N 16"', 'is = "at limit", at = "N 16", beyond = "N 64"', "setting of hypothesis S3a"),
        ('arm = "denoising-apart"', 'arm = "denoising-shared"', "arm of hypothesis A1b"),
    ],
)
def test_a_registration_that_makes_no_sense_is_refused(old, new, says) -> None:
    text = FILE.read_text(encoding="utf8")
    assert old in text
    with pytest.raises(InputError, match=says):
        read_registration(text.replace(old, new, 1).encode())


# -- S3 --------------------------------------------------------------------------------------------------------------------------------------------


def test_one_of_many_scene_by_scene() -> None:
    x, asks, wanted = one_of_many(60, 14, torch.Generator().manual_seed(1), width=16, tokens=20)
    for scene, asking, answer in zip(x, asks.tolist(), wanted, strict=True):
        assert scene[:, 14].sum() == scene[:, 15].sum() == 1
        t, who = int(scene[:, 14].argmax()), int(scene[:, 15].argmax())
        assert who == asking != t
        assert torch.equal(answer, scene[t, :14])
        assert scene[who, :14].abs().sum() == 0
        assert (scene[:, :14].abs().sum(1) > 0).sum() == 19


@pytest.mark.parametrize("arm", ["softmax-wide", "denoising-shared", "softmax-centered"])
def test_no_logit_is_beyond_the_root_of_the_width_and_one_query_is_enough(arm) -> None:
    torch.manual_seed(0)
    attention = make_layer(STUDY.parts["S3"].arms[arm], 16, "floor")
    with torch.no_grad():
        attention.qkv.weight *= 1000
        x, asks, _ = one_of_many(5, 14, torch.Generator().manual_seed(0), width=16, tokens=64)
        maps = attention.attention_map(x)
        plain = maps.get("positive", maps["combined"])
        ratio = float((plain.amax(-1) / plain.amin(-1)).max())
        assert math.exp(3.5) < ratio < math.exp(4) * 1.001, "weights of any size leave each other token e^-4 of the largest weight"
        scene = torch.arange(5)
        whole, alone = attention(x)[scene, asks], attention(x[scene, asks][:, None], context=x)[:, 0]
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-2)


def test_the_floor_that_the_registration_states() -> None:
    """The least error over all scales of one map whose target has e^4 of the others' weight, by a search."""
    for tokens, stated in ((16, 0.005), (64, 0.02), (256, 0.08)):
        p = math.e**4 / (math.e**4 + tokens - 1)
        others = (1 - p) ** 2 / (tokens - 1)
        least = min((scale * p - 1) ** 2 + scale**2 * others for scale in np.linspace(0, 60, 60001))
        assert least == pytest.approx(stated, rel=0.25)
        assert str(stated) in STUDY.parts["S3"].about


def test_a_layer_of_bounded_logits_learns() -> None:
    part = replace(STUDY.parts["S3"], steps=80, test_scenes=256)
    layer = part.arms["softmax-centered"]
    made = judge_layer(part, train_layer(part, layer, 14, 0.01, 7, tokens=16), 14, 7, count=16)
    assert made["error"] < judge_layer(part, make_layer(layer, 16, "floor"), 14, 7, count=16)["error"]


# -- P1 --------------------------------------------------------------------------------------------------------------------------------------------


def test_one_cell_changes_and_light_is_of_a_view() -> None:
    views, changed, difference = changed_scenes("train", 300, 4, torch.Generator().manual_seed(2))
    assert views.shape == (300, 2, 4, 48)
    assert Counter(changed.tolist()).keys() == {0, 1, 2, 3}
    other = torch.ones(300, 4, dtype=torch.bool)
    other[torch.arange(300), changed] = False
    assert difference[other].abs().sum() == 0
    assert (difference[~other].abs().amax(1) > 0.01).float().mean() > 0.95
    # what changed is nearer to its drawn change than to none; what did not is another view of the same
    moved = views[:, 1] - views[:, 0]
    in_changed = torch.corrcoef(torch.stack([moved[~other].flatten(), difference[~other].flatten()]))[0, 1]
    in_others = torch.corrcoef(torch.stack([views[:, 0][other].flatten(), views[:, 1][other].flatten()]))[0, 1]
    across = torch.corrcoef(torch.stack([views[:, 0][~other].flatten(), views[:, 1][~other].flatten()]))[0, 1]
    assert in_changed > 0.7
    assert in_others > across + 0.05
    assert views.mean().abs() < 0.5
    assert views.std() == pytest.approx(1, abs=0.35)


def test_photographs_that_train_and_judge_are_different_ones() -> None:
    assert len({*PHOTOS["train"], *PHOTOS["val"], *PHOTOS["test"]}) == 10 + 3 + 4


def test_nothing_goes_past_the_layer() -> None:
    torch.manual_seed(0)
    head = ChangeHead(STUDY.parts["P1"].arms["denoising-shared"], 48, 4)
    views, _, _ = changed_scenes("train", 3, 4, torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert head(views).std(0).max() > 1e-3
        head.attn.proj.weight.zero_()
        torch.testing.assert_close(head(views), head.draw(head.attn.proj.bias).expand(3, 4, -1))


# -- digits ----------------------------------------------------------------------------------------------------------------------------------------


def test_classes_of_distractors() -> None:
    by_kind = {kind: replace(SMALL, distractor_classes=kind) for kind in ("others", "any", "lookalikes")}
    drawn = {kind: [_distractors(data, label, np.random.default_rng(seed)) for seed in range(80) for label in (0, 6, 3, 5)] for kind, data in by_kind.items()}
    labels = [label for _ in range(80) for label in (0, 6, 3, 5)]
    assert all(label not in found for label, found in zip(labels, drawn["others"], strict=True))
    assert {int(n) for found in drawn["any"] for n in found} == set(range(10))
    assert any(label in found for label, found in zip(labels, drawn["any"], strict=True))
    partner = {0: 6, 6: 0, 3: 5, 5: 3}
    for label, found in zip(labels, drawn["lookalikes"], strict=True):
        assert set(map(int, found)) <= {label, partner[label]}
    same = np.mean([n == label for label, found in zip(labels, drawn["lookalikes"], strict=True) for n in found])
    assert same == pytest.approx(0.5, abs=0.06), "else they would tell which of the two the target is"
    # what scenes were before there was a choice
    rng = np.random.default_rng(3)
    assert _distractors(ClutteredDigits(), 4, np.random.default_rng(3)) == list((4 + rng.integers(1, 10, 3)) % 10)
    for kind in by_kind:
        scenes = replace(by_kind[kind], train_scenes=2, val_scenes=1, test_scenes=1).load().train
        assert scenes[0][0].shape == (1, 16, 16)


def test_recipes_of_the_parts_on_digits() -> None:
    depth, alike = STUDY.parts["S6"], STUDY.parts["S4"]
    one, three = (image_recipe(depth, "denoising-shared", 0.002, 200, setting) for setting in ("depth 1", "depth 3"))
    assert (one.model.depth, three.model.depth) == (1, 3)
    assert replace(one, model=three.model) == three
    assert one.model.build(img_size=36, in_chans=1, num_classes=10).blocks[0].attn.shared_values
    assert image_recipe(alike, "denoising", 0.004, 200, "lookalikes").data == replace(
        SMALL, distractor_classes="lookalikes", test_scenes=4000, val_scenes=2000, seed=200
    )
    assert one.data.seed == one.seed == 200


@pytest.mark.parametrize("arm", STUDY.parts["S5"].arms)
def test_a_retrofit_leaves_the_function(arm) -> None:
    torch.manual_seed(0)
    net = image_recipe(STUDY.parts["S5"], "softmax", 0.004, 7, "any").model.build(img_size=16, in_chans=1, num_classes=10).eval()
    for weights in net.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    x = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        before = net(x)
        torch.testing.assert_close(change_(net, arm).eval()(x), before, rtol=1e-4, atol=1e-4)
    layer = STUDY.parts["S5"].arms[arm]
    heads = {block.attn.num_heads for block in net.blocks}
    assert heads == {layer.heads + layer.options.get("extra_heads", 0)}
    assert type(net.blocks[0].attn).__name__.lower().startswith(layer.attention)


# -- angles and claims -----------------------------------------------------------------------------------------------------------------------------


def test_angles_of_a_run_and_the_penalty_that_opens_them(tmp_path) -> None:
    part = replace(STUDY.parts["A1"], steps=40, test_scenes=64)
    found = {arm: KINDS[part.kind].run(Unit(part, "rank 28", arm, part.arms[arm], 0.01, 7), tmp_path) for arm in part.arms}
    assert set(found["softmax-wide"]) == {"error"}
    for arm in ("denoising", "denoising-apart"):
        assert found[arm]["turn"] == pytest.approx(found[arm]["angle at end"] - found[arm]["angle at start"])
    assert found["denoising"]["angle at start"] == found["denoising-apart"]["angle at start"]
    assert found["denoising-apart"]["angle at end"] > found["denoising"]["angle at end"] + 5
    # by hand, of the same layer
    layer = train_layer(part, part.arms["denoising"], 28, 0.01, 7)
    both = [(layer.qkv.weight[64 + 8 * head : 72 + 8 * head].T, layer.v_neg.weight[8 * head : 8 * head + 8].T) for head in range(4)]
    by_hand = np.mean([principal_angles(a.detach(), b.detach()).mean().item() for a, b in both])
    assert found["denoising"]["angle at end"] == pytest.approx(by_hand, abs=1e-3)


def test_angles_are_read_from_what_runs_on_images_left(tmp_path) -> None:
    part = replace(STUDY.rehearsal().parts["S4"], steps=6)
    unit = Unit(part, "any", "denoising", part.arms["denoising"], 0.02, 7)
    assert angles_of_run(unit, tmp_path) is None
    KINDS[part.kind].run(unit, tmp_path)
    recipe, bundle, trained = load_run(tmp_path / unit.place)
    assert angles_of_run(unit, tmp_path) == {"start": pytest.approx(mean_angle(build_model(recipe, bundle))), "end": pytest.approx(mean_angle(trained))}
    assert mean_angle(trained) != mean_angle(build_model(recipe, bundle))
    for arm in ("softmax-wide", "denoising-shared"):
        assert mean_angle(KINDS[part.kind].build(part, arm, part.arms[arm], "any")) is None


def test_chance_is_that_of_the_sizes() -> None:
    part = STUDY.parts["A1"]
    assert chance_of(make_layer(part.arms["softmax-wide"], 32)) is None
    generator = torch.Generator().manual_seed(4)
    drawn = [principal_angles(*torch.randn(2, 32, 7, generator=generator)).mean().item() for _ in range(100)]
    assert chance_of(make_layer(part.arms["denoising-equal"], 32)) == pytest.approx(np.mean(drawn), abs=1.5)


def test_correlation_over_arms_and_seeds() -> None:
    rng = np.random.default_rng(0)
    angles = {"a": list(rng.normal(40, 3, 8)), "b": list(rng.normal(80, 3, 8))}
    up = {arm: [0.01 * angle + rng.normal(0, 0.01) for angle in of] for arm, of in angles.items()}
    down = {arm: [-value for value in of] for arm, of in up.items()}
    none = {arm: list(rng.normal(size=8)) for arm in angles}
    found = correlated(angles, up, draws=500)
    wanted = np.corrcoef([*angles["a"], *angles["b"]], [*up["a"], *up["b"]])[0, 1]
    assert found["r"] == pytest.approx(wanted)
    assert found["low"] < found["r"] < found["high"]
    assert found["pairs"] == 16
    lower, nothing = correlated(angles, down, draws=500), correlated(angles, none, draws=500)
    assert [cause_of(pair) for pair in ([found, found], [lower, lower], [found, nothing], [found, lower], [found], [])] == [
        "supported",
        "contradicted",
        *["not shown"] * 4,
    ]
    assert correlated(angles, {arm: [0.1] * 8 for arm in angles})["r"] is None


def test_a_claim_beyond_a_setting_is_a_difference_of_differences() -> None:
    part = STUDY.parts["S6"]
    values = {("depth 1", "denoising-shared", "accuracy"): [0.9, 0.8], ("depth 1", "softmax-wide", "accuracy"): [0.6, 0.7]}
    values |= {("depth 3", "denoising-shared", "accuracy"): [0.9, 0.9], ("depth 3", "softmax-wide", "accuracy"): [0.8, 0.95]}
    claim = Claim(arm="denoising-shared", relation="greater", against="softmax-wide", at="depth 1", beyond="depth 3")
    assert _differences(claim, part, values) == pytest.approx([0.3 - 0.1, 0.1 + 0.05])
    assert _differences(replace(claim, beyond=""), part, values) == pytest.approx([0.3, 0.1])
    values["depth 3", "softmax-wide", "accuracy"] = [None, 0.9]
    assert _differences(claim, part, values) is None
    turned = {("rank 28", "denoising", "turn"): [-3.0, -2.0]}
    assert _differences(Claim(arm="denoising", relation="below zero", metric="turn"), STUDY.parts["A1"], turned) == [-3.0, -2.0]


# -- both ------------------------------------------------------------------------------------------------------------------------------------------


def few(study, *names: str):
    """Parts that take no second, with all of their arms."""
    small = study.rehearsal()
    return replace(small, parts={name: replace(small.parts[name], test_scenes=16, steps=4) for name in names}, smoke=False)


def test_parts_are_run_one_after_the_other(tmp_path, monkeypatch) -> None:
    order = []
    monkeypatch.setattr(foveal.lab.study.run, "_run", lambda unit, folder: order.append(unit.part.name) or {})
    monkeypatch.setattr(
        foveal.lab.study.run, "chosen_rates", lambda study, part, folder: dict.fromkeys(((s, a) for s in part.settings for a in study.arms_of(part)), 0.1)
    )
    run_study(few(STUDY, "S3", "P1"), tmp_path, jobs=1, quiet=True)
    assert order == sorted(order, key=["S3", "P1"].index)
    assert set(order) == {"S3", "P1"}


def test_both_registrations_make_one_page(tmp_path, capsys, monkeypatch) -> None:
    first, second = few(load_registration("denoising"), "S1N"), few(STUDY, "P1", "A1")
    monkeypatch.setattr("foveal.lab.study.load_study", lambda name: (first, second))
    out, page = tmp_path / "out", tmp_path / "docs" / "study-denoising.md"
    page.parent.mkdir()
    words = ["study", "denoising", "--jobs", "1", "--out", str(out)]
    assert main([*words, "--only", "P1", "A1"]) == 0
    assert "S1N" in (out / "page.md").read_text(encoding="utf8").split("Not yet run")[1]
    assert main([*words, "--page", str(page)]) == 0
    capsys.readouterr()
    written = page.read_text(encoding="utf8")
    assert main(["study", "denoising", "--no-run", "--out", str(out), "--page", str(page)]) == 0
    assert page.read_text(encoding="utf8") == written
    held = json.loads(page.with_suffix(".json").read_text(encoding="utf8"))["registrations"]
    assert [list(one["parts"]) for one in held] == [["S1N"], ["P1", "A1"]]
    assert [one["registration"] for one in held] == [first.digest, second.digest]
    assert json.loads((out / "results.json").read_text(encoding="utf8")) == held[0]
    for one in held:
        assert one["registration"][:16] in written
        for hypothesis in one["hypotheses"]:
            assert hypothesis["says"] in written
    assert "## Principal angles" in written
    assert written.split("Not yet run")[1].count("\n| S") == 3 + 4, "S0, S1, S2 and S3, S5, S6, S4"
    # a family for each registration: two primaries of the second would be one of nine otherwise
    primary = next(one for one in held[1]["hypotheses"] if one["id"] == "P1")
    assert primary["corrected"] == pytest.approx(min(1, 6 * primary["p"]))
    angles = held[1]["parts"]["A1"]["angles"]["by_arm"]
    assert set(angles) == {"denoising", "denoising-equal", "denoising-apart", "denoising-equal-apart"}
    rows = {row["arm"]: row["values"]["error"] for row in held[1]["parts"]["A1"]["rows"]}
    assert angles["denoising"]["gain"] == pytest.approx([wide - own for wide, own in zip(rows["softmax-wide"], rows["denoising"], strict=True)])
    for figure in page.parent.glob("*.svg"):
        assert figure.name in written


@pytest.mark.slow
def test_every_part_of_the_second_registration_rehearses(tmp_path) -> None:
    study = STUDY.rehearsal()
    run_study(study, tmp_path, jobs=1, quiet=True)
    results = foveal.lab.study.collect(foveal.lab.study.done_parts(study, tmp_path), tmp_path)
    assert list(results["parts"]) == list(STUDY.parts)
    foveal.lab.study.write_page([results], tmp_path / "page.md", tmp_path / "report.html")
    assert "its numbers mean nothing" in (tmp_path / "page.md").read_text(encoding="utf8")
    before = {read["values"]["before"] for path in (tmp_path / "S5" / "all").rglob("seed-200.json") if (read := json.loads(path.read_text()))}
    assert len(before) == 1, "every arm begins with the function of the same network"
