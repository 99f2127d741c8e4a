"""Hosts with positions, windows and masks, on their real classes: what is kept is kept to the last bits, what has no place is reported or refused."""

import copy
import pickle
import re

import pytest
import torch
from torch import nn

import foveal
from foveal import CrossSampleAttention, DenoisingAttention, ExternalAttention, HaloAttention, SoftmaxAttention, convert, convert_, revert_
from foveal.attention import TokenAttention, attention_class, list_attentions
from foveal.convert import find_host, global_only, register_attention_functions
from tests.convert.hosts import CASES, Case, maxxvit
from tests.convert.test_hosts import run, stirred, transformers_tower


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.mark.parametrize(
    "config", [SoftmaxAttention.Config(), DenoisingAttention.Config(), CrossSampleAttention.Config(dictionary_size=5)], ids=lambda c: c.attention
)
def test_the_function_is_kept(case, config) -> None:
    host, images = case.model(), case.images()
    want = run(host, images)
    model, report = convert(host, config, warm_start="exact")
    assert len(report.swaps) == case.places
    if case.changes:
        assert {swap.output for swap in report.swaps if swap.dropped} == {"changed"}
        assert (run(model, images) - want).abs().max() > 1e-4
    else:
        assert {swap.output for swap in report.swaps} == {"identical"}
        torch.testing.assert_close(run(model, images), want, rtol=1e-5, atol=1e-5)


def test_every_attention_runs_and_learns_or_is_refused(case) -> None:
    host, images = case.model(), case.images()
    for name in list_attentions(form="tokens"):
        config = attention_class(name).Config()
        if name in case.refuses:
            before = {key: id(module) for key, module in host.named_modules()}
            reasons = r"shifted, and a mask|turned by their positions|needs the grid of one image"
            with pytest.raises(ValueError, match=reasons):
                convert_(host, config, where=lambda key, module: True)
            assert {key: id(module) for key, module in host.named_modules()} == before
            # by default what fits is converted, and the report says why the others are not
            fits = [key for key, module in host.named_modules() if find_host(module) is not None and _fits(host, key, config)]
            if not fits:
                with pytest.raises(foveal.InputError, match=reasons):
                    convert(host, config)
                continue
            model, report = convert(host, config)
            assert [swap.name for swap in report.swaps] == fits
            assert len(report.swaps) + len(report.left) == case.places
            assert report.left
            assert all(re.search(reasons, one.reason) for one in report.left)
            run(model, images)
            continue
        model, report = convert(host, config)
        assert len(report.swaps) < case.places if name in case.alone else len(report.swaps) == case.places
        run(model, images).square().sum().backward()
        attentions = [module for module in model.modules() if type(module) is attention_class(name)]
        assert len(attentions) == len(report.swaps)
        for module in attentions:
            assert all(p.grad is not None for p in module.parameters()), name


def _fits(host: nn.Module, name: str, config: foveal.attention.AttentionConfig) -> bool:
    """Whether it can be converted alone."""
    try:
        convert(host, config, where=lambda key, module: key == name)
    except foveal.InputError:
        return False
    return True


def test_every_parameter_is_accounted_for(case) -> None:
    """Kept, mapped and new together are all that the replacement has, once each; the name of our attention in it is left out."""
    for name in ("denoising", "external"):
        if name in case.refuses:
            continue
        model = case.model()
        for swap in convert_(model, attention_class(name).Config()).swaps:
            replacement = model.get_submodule(swap.name)
            inner = next(key for key, module in replacement.named_modules() if isinstance(module, TokenAttention))
            names = [key.removeprefix(f"{inner}.") for key, _ in replacement.named_parameters()]
            assert sorted(swap.kept + swap.derived + swap.new) == sorted(names), name
            assert swap.parameters[1] == sum(p.numel() for p in replacement.parameters())


def test_reverting_gives_back_what_was_trained(case) -> None:
    """Also where our layers were copies of the host's: as every layer that both have."""
    host, images = case.model(), case.images()
    model = copy.deepcopy(host)
    convert_(model, SoftmaxAttention.Config())
    assert foveal.revert_(model)
    assert list(model.state_dict()) == list(host.state_dict())
    assert torch.equal(run(model, images), run(host, images))
    if case.changes:
        return
    convert_(model, SoftmaxAttention.Config())
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SoftmaxAttention):
                for value in module.parameters():
                    value.mul_(1.1)
    # softmax cannot see a constant added to all logits of a query, and the hosts' biases of keys are such constants, or no parameters at all
    for module in model.modules():
        if isinstance(module, SoftmaxAttention) and module.qkv.bias is not None:
            module.qkv.bias.data[module.inner_dim : 2 * module.inner_dim] /= 1.1
    trained = run(model, images)
    foveal.revert_(model)
    torch.testing.assert_close(run(model, images), trained, rtol=1e-4, atol=1e-5)
    assert (trained - run(host, images)).abs().max() > 1e-4


def test_copies_and_pickles_run(case) -> None:
    images = case.images()
    model, _ = convert(case.model(), DenoisingAttention.Config())
    want = run(model, images)
    assert torch.equal(run(copy.deepcopy(model), images), want)
    assert torch.equal(run(pickle.loads(pickle.dumps(model)), images), want)


SLOW = [name for name in CASES if name != "timm DINOv3" and "transformers" not in name]


@pytest.mark.parametrize("name", ["timm DINOv3", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_compiles_without_a_graph_break(name) -> None:
    images = CASES[name].images()
    model, _ = convert(CASES[name].model(), DenoisingAttention.Config())
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(compiled, images), run(model, images), rtol=1e-4, atol=1e-5)


# -- what has no place ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "config", "dropped"),
    [
        ("timm BEiT", ExternalAttention.Config(), "position.table.relative_position_bias_table"),
        ("timm BEiT, shared positions", HaloAttention.Config(block_size=2, halo_size=2), "bias of pairs from the model"),
        ("timm DINOv3", ExternalAttention.Config(), "rotary positions"),
        ("timm MaxViT", ExternalAttention.Config(), "position.table.mlp.fc1.weight"),
        ("timm CaiT", SoftmaxAttention.Config(), "proj_l.weight"),
        ("timm XCiT", SoftmaxAttention.Config(), "temperature"),
        ("transformers BEiT", ExternalAttention.Config(), "bias of pairs from the model"),
    ],
)
def test_what_is_dropped_is_reported(host, config, dropped) -> None:
    report = convert_(CASES[host].model(), config)
    assert dropped in report.swaps[0].dropped
    assert report.swaps[0].output == "changed"


def test_rotary_positions_and_windows_that_cover_the_grid_keep_the_function() -> None:
    case = CASES["timm DINOv3"]
    host, images = case.model(), case.images()
    model, report = convert(host, HaloAttention.Config(block_size=2, halo_size=2))
    assert {swap.output for swap in report.swaps} == {"identical"}
    torch.testing.assert_close(model(images), host(images), rtol=1e-4, atol=1e-5)


def test_windows_that_are_not_shifted_take_attentions_without_pairs() -> None:
    for name, where in (("timm Swin", "layers.*.blocks.0.attn"), ("torchvision Swin", "features.*.0.attn")):
        model = CASES[name].model()
        report = convert_(model, ExternalAttention.Config(), where=where)
        assert len(report.swaps) == 2
        assert model(CASES[name].images()).shape == (2, 5)


def test_costs_of_windows_are_those_of_the_image() -> None:
    """16×16 tokens in 16 windows of 4×4."""
    swap = convert_(CASES["timm Swin"].model(), SoftmaxAttention.Config()).swaps[0]
    assert swap.macs == (16 * (4 * 16 * 16**2 + 2 * 16**2 * 16),) * 2


@pytest.mark.parametrize("options", [{"use_rel_pos": True}, {"use_rel_pos": True, "qk_norm": True}, {"use_rope": True}], ids=str)
def test_sams_positions_of_queries_are_kept(options) -> None:
    """In windows and over the whole; multiplied with the queries behind their norm, or turning them."""
    pytest.importorskip("timm")
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5, "window_size": 2, "global_attn_indexes": (1,)}
    torch.manual_seed(0)
    host, images = stirred(VisionTransformerSAM(**sizes, **options)), torch.randn(2, 3, 32, 32)
    state = {key: value.clone() for key, value in host.state_dict().items()}
    for config in (SoftmaxAttention.Config(), DenoisingAttention.Config()):
        model, report = convert(host, config, warm_start="exact")
        assert [(swap.output, swap.dropped) for swap in report.swaps] == [("identical", [])] * 2
        torch.testing.assert_close(model(images), host(images), rtol=1e-5, atol=1e-5)
        model(images).sum().backward()
        assert all(value.grad is not None for key, value in model.named_parameters() if "rel_pos" in key)
        revert_(model)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    swap = convert(host, ExternalAttention.Config())[1].swaps[0]
    assert swap.output == "changed"
    lost = ["position.rel_pos_h", "position.rel_pos_w"] if "use_rel_pos" in options else ["rotary positions"]
    assert all(name in swap.dropped for name in lost)


def test_settings_that_no_attention_here_has_are_refused() -> None:
    pytest.importorskip("timm")
    from timm.models.eva import Eva

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 4, "attn_type": "rope", "use_rot_pos_emb": True}
    model = Eva(**sizes, num_kv_heads=2, qkv_fused=False)
    with pytest.raises(ValueError, match="shares keys and values among heads"):
        convert_(model, SoftmaxAttention.Config())
    model = Eva(**sizes)
    model.blocks[0].attn.gate = nn.Linear(32, 32)
    with pytest.raises(ValueError, match="gates its output"):
        convert_(model, SoftmaxAttention.Config())


def test_blocks_of_coatnet_that_change_their_width() -> None:
    """The first block of a stage does; an attention of one width is left there, or refused where it was meant."""
    model = maxxvit("T", "bias", False)()
    with pytest.raises(ValueError, match="changes the width"):
        convert_(model, ExternalAttention.Config(), where="stages.*.attn")
    _, report = convert(model, ExternalAttention.Config())
    assert len(report.swaps) == 1
    assert [(one.name, "changes the width" in one.reason) for one in report.left] == [("stages.0.blocks.0.attn", True)]
    host, images = copy.deepcopy(model).eval(), torch.randn(1, 3, 16, 16)
    report = convert_(model.eval(), SoftmaxAttention.Config(), where="stages.*.attn")
    assert [swap.output for swap in report.swaps] == ["identical"] * 2
    torch.testing.assert_close(model(images), host(images), rtol=1e-5, atol=1e-5)


# -- what hosts can do, and go on doing -------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning", "ignore:torch.searchsorted:UserWarning")
@pytest.mark.parametrize("name", ["timm Swin", "timm Swin V2", "timm BEiT"])
def test_timm_goes_on_resizing(name) -> None:
    """timm asks its attentions for larger windows, whose tables it interpolates, with a warning of its own making."""
    host = CASES[name].model()
    model, _ = convert(host, DenoisingAttention.Config(), warm_start="exact")
    for part in (host, model):
        part.set_input_size((64, 64), **({} if "BEiT" in name else {"window_size": (8, 8)}))
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(images), host(images), rtol=1e-5, atol=1e-5)


def test_timm_goes_on_with_features() -> None:
    timm = pytest.importorskip("timm")
    host = timm.create_model("test_vit", features_only=True).eval()
    model, _ = convert(host, DenoisingAttention.Config(), warm_start="exact")
    images = torch.randn(1, 3, 160, 160)
    for ours, theirs in zip(model(images), host(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    swin, images = CASES["timm Swin"].model(), CASES["timm Swin"].images()
    want = swin.forward_intermediates(images, intermediates_only=True)
    convert_(swin, DenoisingAttention.Config(), warm_start="exact")
    for ours, theirs in zip(swin.forward_intermediates(images, intermediates_only=True), want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["transformers DINOv3", "transformers BEiT", "transformers VideoMAE", "transformers TimeSformer"])
@pytest.mark.parametrize("run_before", [True, False])
def test_transformers_still_gives_maps(name, run_before) -> None:
    """Its hooks that record maps are set in the first run, before or after the conversion."""
    host, images = CASES[name].model(), CASES[name].images()
    if "TimeSformer" not in name:
        host.set_attn_implementation("eager")
    model = copy.deepcopy(host)
    want = host(images, output_attentions=True).attentions
    if run_before:
        model(images, output_attentions=True)
    convert_(model, SoftmaxAttention.Config())
    got = model(images, output_attentions=True).attentions
    assert len(got) == len(want) == 2
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_encoders_of_segmentation_models_are_converted_inside_them() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    sizes = {"encoder_weights": None, "classes": 2}
    swin = smp.Unet("tu-swin_tiny_patch4_window7_224", img_size=64, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(2, 2, 2, 2), window_size=2, **sizes)
    images = torch.randn(1, 3, 64, 64)
    swin.eval()
    want = swin(images)
    report = convert_(swin, DenoisingAttention.Config(), where="encoder.*", warm_start="exact")
    assert len(report.swaps) == 4
    torch.testing.assert_close(swin(images), want, rtol=1e-5, atol=1e-5)


# -- presets of places ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("timm SAM", ["blocks.1.attn"]),
        ("timm Swin", []),
        ("timm BEiT", ["blocks.0.attn", "blocks.1.attn"]),
        ("timm MaxViT", []),
    ],
)
def test_global_only(name, want) -> None:
    model = CASES[name].model()
    if want:
        assert [swap.name for swap in convert_(model, DenoisingAttention.Config(), where=global_only(model)).swaps] == want
    else:
        with pytest.raises(ValueError, match="no attention over the whole image"):
            convert_(model, DenoisingAttention.Config(), where="global_only")


def test_a_window_that_covers_the_map_is_global() -> None:
    pytest.importorskip("timm")
    from timm.models.swin_transformer import SwinTransformer

    model = SwinTransformer(img_size=16, patch_size=2, embed_dim=16, depths=(1, 1), num_heads=(2, 2), window_size=4, num_classes=5)
    assert [swap.name for swap in convert_(model, ExternalAttention.Config(), where="global_only").swaps] == ["layers.1.blocks.0.attn"]


@pytest.mark.parametrize(("where", "want"), [("all", 3), ("last_stage", 1)])
def test_presets_by_name(where, want) -> None:
    assert len(convert_(CASES["timm Swin"].model(), DenoisingAttention.Config(), where=where).swaps) == want
    assert len(convert_(CASES["torchvision Swin"].model(), DenoisingAttention.Config(), where=where).swaps) == want


# -- functions of transformers' interface -----------------------------------------------------------------------------------------------------------


def test_attention_functions_equal_the_layers() -> None:
    """A tower whose implementation is named computes what the converted tower computes, with the same weights."""
    pytest.importorskip("transformers")
    names = register_attention_functions()
    assert names == ["foveal_softmax", "foveal_efficient", "foveal_linear"]

    images = torch.randn(2, 3, 32, 32)
    for name in names:
        model = stirred(transformers_tower("ViT"))
        converted, _ = convert(model, attention_class(name.removeprefix("foveal_")).Config())
        model.set_attn_implementation(name)
        torch.testing.assert_close(run(model, images), run(converted, images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["foveal_softmax", "foveal_linear", "foveal_efficient"])
def test_attention_functions_are_given_their_masks(name) -> None:
    """BERT's padding: what stands behind a mask must not matter. Without a mask function of its own the mask would be lost."""
    transformers = pytest.importorskip("transformers")
    register_attention_functions()
    torch.manual_seed(0)
    config = transformers.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=50)
    model = transformers.BertModel(config).eval()
    model.set_attn_implementation(name)
    tokens, mask = torch.randint(1, 50, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[0, 6:] = 0
    other = tokens.clone()
    other[0, 6:] = 7
    want, got = (model(input_ids=ids, attention_mask=mask).last_hidden_state for ids in (tokens, other))
    torch.testing.assert_close(got[0, :6], want[0, :6], rtol=1e-5, atol=1e-5)
    seen = model(input_ids=other, attention_mask=torch.ones_like(mask)).last_hidden_state
    assert (seen[0, :6] - got[0, :6]).abs().max() > 1e-3


def test_attention_functions_without_pairs_refuse_causality() -> None:
    transformers = pytest.importorskip("transformers")
    register_attention_functions()
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=50, n_positions=16)
    model = transformers.GPT2Model(config).eval()
    tokens = torch.randint(1, 50, (1, 9))
    want = model(tokens).last_hidden_state
    model.set_attn_implementation("foveal_softmax")
    torch.testing.assert_close(model(tokens).last_hidden_state, want, rtol=1e-4, atol=1e-5)
    model.set_attn_implementation("foveal_linear")
    with pytest.raises(ValueError, match="causal"):
        model(tokens)


def test_a_model_without_attentions_has_no_global_ones() -> None:
    with pytest.raises(ValueError, match="no attention that is known"):
        global_only(nn.Linear(2, 2))
