"""torch.fx on models with our attentions: plain tracing, torchvision's and timm's feature extractors, tracers with leaves of their own."""

import copy
import pickle

import pytest
import torch
from torch import nn

import foveal
from foveal import InputError, functional
from foveal.attention import attention_class, create_attention, list_attentions
from foveal.models import MAResUNet, SmallFCN
from tests.convert.test_hosts import SIDE, stirred, timm_vit, torchvision_vit

TOKENS = list_attentions(form="tokens")
MAPS = list_attentions(form="2d")


def agrees(graph, model: nn.Module, shape: tuple[int, ...]) -> None:
    for count in (1, 5):
        x = torch.randn(count, *shape)
        assert torch.equal(graph(x), model(x))


def at(model: nn.Module, name: str, x: torch.Tensor):
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, args, out: seen.append(out))
    model(x)
    handle.remove()
    return seen[0][0] if isinstance(seen[0], tuple) else seen[0]


def extractors():
    yield pytest.importorskip("torchvision.models.feature_extraction").create_feature_extractor
    yield pytest.importorskip("timm.models._features_fx").create_feature_extractor


@pytest.mark.case("C9")
@pytest.mark.parametrize("name", [*TOKENS, *MAPS])
def test_an_attention_by_itself_and_in_a_sequence(name) -> None:
    tokens = name in TOKENS
    attention = stirred(create_attention(name, 16, **({"num_heads": 4} if tokens else {}))).eval()
    shape = (17, 16) if tokens else (16, 7, 9)
    agrees(torch.fx.symbolic_trace(attention), attention, shape)
    sequence = nn.Sequential(nn.ReLU(), attention, nn.ReLU())
    graph = torch.fx.symbolic_trace(sequence)
    agrees(graph, sequence, shape)
    assert graph.state_dict().keys() == sequence.state_dict().keys()
    agrees(pickle.loads(pickle.dumps(graph)), sequence, shape)
    agrees(copy.deepcopy(graph), sequence, shape)


@pytest.mark.case("C9")
@pytest.mark.parametrize("name", TOKENS)
def test_features_of_converted_transformers(name) -> None:
    torch.manual_seed(0)
    for host, place in ((timm_vit(depth=2), "blocks.0"), (torchvision_vit(), "encoder.layers.encoder_layer_0")):
        model = stirred(host).eval()
        nodes = [f"{place}.mlp", f"{place}.{'attn' if place == 'blocks.0' else 'self_attention'}"]
        for make in extractors():
            make(model, nodes)
        foveal.convert_(model, attention_class(name).Config())
        stirred(model).eval()
        x = torch.randn(3, 3, SIDE, SIDE)
        for make in extractors():
            found = make(model, nodes)(x)
            torch.testing.assert_close(found[nodes[0]], at(model, nodes[0], x), rtol=0, atol=0)
        foveal.revert_(model)
        for make in extractors():
            make(model, nodes)


@pytest.mark.case("C9")
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("after", ["layer2", "layer2.0"])
def test_features_behind_inserted_blocks(name, after) -> None:
    """Behind a Sequential the block is one of its modules, elsewhere a hook calls it."""
    resnet = pytest.importorskip("torchvision.models.resnet")
    torch.manual_seed(0)
    model = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)
    model.layer3, model.layer4, model.fc = nn.Identity(), nn.Identity(), nn.Linear(128, 5)
    foveal.insert_(model, attention_class(name).Config(), after)
    stirred(model).eval()
    agrees(torch.fx.symbolic_trace(model), model, (3, 40, 56))
    x = torch.randn(3, 3, 40, 56)
    for make in extractors():
        assert torch.equal(make(model, [after])(x)[after], at(model, after, x))


@pytest.mark.case("C9")
def test_hooks_masks_and_checks_are_there_when_the_graph_runs() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = create_attention("denoising", 16, num_heads=4)

        def forward(self, x, mask=None):
            return self.attn(x, attn_mask=mask) + self.attn.values(x).mean() * 0

    model = Encoder().eval()
    model.attn.register_forward_hook(lambda module, args, out: out + 1)
    graph = torch.fx.symbolic_trace(model)
    x, mask = torch.randn(2, 5, 16), torch.rand(2, 1, 1, 5) > 0.3
    mask[..., 0] = True
    assert torch.equal(graph(x), model(x))
    assert torch.equal(graph(x, mask), model(x, mask))
    with pytest.raises(InputError, match="C=16"):
        graph(torch.randn(2, 5, 15))
    model.train()
    assert graph.attn.training, "the graph holds the module itself"


@pytest.mark.case("C9")
def test_functions_and_foreign_tracers() -> None:
    class Own(nn.Module):
        def forward(self, x):
            q = x.unflatten(-1, (2, -1)).transpose(1, 2)
            return functional.softmax_attention(q, q, q, is_causal=True) + functional.efficient_attention(q, q, q)

    agrees(torch.fx.symbolic_trace(Own()), Own(), (6, 8))

    class Everything(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, nn.Sequential)

    class Nothing(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return False

    model = nn.ModuleList([nn.Sequential(create_attention("halo", 16, num_heads=4)), create_attention("external", 16)])
    holder = nn.Sequential(*model).eval()
    for tracer in (Everything(), Nothing()):
        agrees(torch.fx.GraphModule(tracer.root if hasattr(tracer, "root") else holder, tracer.trace(holder)), holder, (17, 16))


@pytest.mark.case("C9")
def test_a_grid_is_watched_in_the_graph_too() -> None:
    model = timm_vit(depth=1)
    foveal.convert_(model, foveal.HaloAttention.Config(block_size=2, halo_size=1))
    stirred(model).eval()
    agrees(torch.fx.symbolic_trace(model), model, (3, SIDE, SIDE))


@pytest.mark.case("C21")
@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torchscript_says_what_to_do_instead() -> None:
    for model in (foveal.convert(timm_vit(depth=1), foveal.SoftmaxAttention.Config())[0], create_attention("linear_2d", 16)):
        with pytest.raises(InputError, match=r"cannot read .*Attention.*torch\.jit\.trace"):
            torch.jit.script(model)


@pytest.mark.case("C9", "C31")
@pytest.mark.parametrize("name", ["halo_2d", "external_2d"])
def test_networks_that_give_back_the_size_of_the_image(name) -> None:
    """Traced at one size, run at another: sides are read when the graph runs."""
    for config, shape in ((SmallFCN(attention=name, stride=2), (3, 21, 30)), (MAResUNet(attention=name).smoke_model(), (3, 40, 50))):
        model = stirred(config.build(img_size=32, in_chans=3, num_classes=2)).eval()
        agrees(torch.fx.symbolic_trace(model), model, shape)
