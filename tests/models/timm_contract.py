"""What every network registered with timm must hold, at the size of its ``test_fov_…`` miniature.

A test file subclasses :class:`TimmContract`, names its model, and brings beside it an oracle of its own.
"""

import copy
from typing import Any, ClassVar

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.models._features_fx import create_feature_extractor, get_graph_node_names
from torch import Tensor, nn

import foveal.timm  # noqa: F401 (registers)
from foveal import InputError


@torch.no_grad()
def stir(model: nn.Module, scale: float = 0.1) -> nn.Module:
    """Away from zeros and ones, so that nothing agrees by accident."""
    for p in model.parameters():
        p.add_(scale * torch.randn_like(p))
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and "running" in name:
            buffer.add_(0.5 * torch.rand_like(buffer))
    return model


class TimmContract:
    name: ClassVar[str]
    """Of the miniature."""
    shape: ClassVar[tuple[int, ...]] = (3, 32, 32)
    """Of one sample."""
    without_gradient: ClassVar[tuple[str, ...]] = ()
    """Beginnings or ends of names of parameters that logits do not reach, or whose effect cancels."""
    traces: ClassVar[bool] = True
    """Compile and export it. Seconds each: False where another class does so with the same modules."""

    def create(self, **options: Any) -> Any:
        return timm.create_model(self.name, **options)

    def samples(self, count: int = 2) -> Tensor:
        return torch.randn(count, *self.shape)

    def learned(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return {name: p for name, p in model.named_parameters() if p.requires_grad and not self.silent(name)}

    def silent(self, name: str) -> bool:
        return any(name.startswith(part) or name.endswith(part) for part in self.without_gradient)

    def test_forward_and_backward(self) -> None:
        model = stir(self.create()).train()
        logits = model(self.samples())
        assert logits.shape == (2, model.num_classes)
        logits.logsumexp(-1).sum().backward()
        for name, p in self.learned(model).items():
            assert p.grad is not None, f"no gradient reaches {name}"
            assert p.grad.isfinite().all(), name

    def test_its_configuration_is_of_the_model(self) -> None:
        model = self.create()
        cfg = model.pretrained_cfg
        assert cfg["architecture"] == self.name
        assert cfg["num_classes"] == model.num_classes
        assert cfg["input_size"] == (self.shape[0], *self.shape[-2:])
        for part in ("first_conv", "classifier"):
            names = cfg[part] if isinstance(cfg[part], tuple | list) else (cfg[part],)
            for name in filter(None, names):
                assert f"{name}.weight" in model.state_dict(), f"{part} {name}"
        assert cfg["license"]

    def test_forward_is_features_and_head(self) -> None:
        model, x = stir(self.create()).eval(), self.samples()
        features = model.forward_features(x)
        assert torch.equal(model.forward_head(features), model(x))
        assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)

    def test_another_classifier(self) -> None:
        model, x = stir(self.create()).eval(), self.samples()
        before = model.forward_head(model.forward_features(x), pre_logits=True)
        model.reset_classifier(7)
        assert model.num_classes == 7
        assert model(x).shape == (2, 7)
        assert not any(module.training for module in model.modules()), "the mode is kept"
        model.reset_classifier(0)
        assert isinstance(model.get_classifier(), nn.Identity)
        assert torch.equal(model(x), before)

    def test_without_a_classifier(self) -> None:
        model = self.create(num_classes=0).eval()
        assert model(self.samples()).shape == (2, model.num_features)

    def test_without_classifier_and_pooling(self) -> None:
        model, x = self.create(num_classes=0, global_pool="").eval(), self.samples()
        assert torch.equal(model(x), model.forward_features(x))
        model = self.create().eval()
        model.reset_classifier(0, "")
        assert torch.equal(model(x), model.forward_features(x))

    def test_no_samples_make_no_logits(self) -> None:
        model = self.create().eval()
        assert model(self.samples(0)).shape == (0, model.num_classes)

    def test_other_channels(self) -> None:
        shape = (1, *self.shape[1:])
        assert self.create(in_chans=1).eval()(torch.randn(2, *shape)).shape[0] == 2

    def test_features_only(self) -> None:
        model, x = self.create(features_only=True).eval(), self.samples()
        maps = model(x)
        assert len(maps) == len(model.feature_info.channels()) >= 1
        for got, channels, reduction in zip(maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True):
            assert got.shape[:2] == (2, channels)
            assert got.shape[-2:] == (-(-self.shape[-2] // reduction), -(-self.shape[-1] // reduction))

    def test_intermediates(self) -> None:
        model, x = stir(self.create()).eval(), self.samples()
        final, maps = model.forward_intermediates(x)
        assert torch.equal(final, model.forward_features(x))
        assert len(maps) == len(model.feature_info)
        for got, info in zip(maps, model.feature_info, strict=True):
            assert got.shape[1] == info["num_chs"]
        (last,) = model.forward_intermediates(x, indices=1, intermediates_only=True)
        assert torch.equal(last, maps[-1])
        (first,) = model.forward_intermediates(x, indices=[0], intermediates_only=True, stop_early=True)
        assert torch.equal(first, maps[0])

    def test_pruned_to_an_intermediate(self) -> None:
        model, x = stir(self.create()).eval(), self.samples()
        (want,) = model.forward_intermediates(x, indices=[1], intermediates_only=True)
        kept = model.prune_intermediate_layers([1])
        (got,) = model.forward_intermediates(x, indices=kept, intermediates_only=True)
        assert torch.equal(got, want)

    @pytest.mark.parametrize("coarse", [False, True])
    def test_groups_hold_every_parameter(self, coarse) -> None:
        model = self.create()
        names = [name for name, _ in model.named_parameters()]
        matcher = model.group_matcher(coarse=coarse)
        grouped = group_parameters(model, matcher)
        assert sorted(name for group in grouped.values() for name in group) == sorted(names)
        assert len(grouped) > 2, "stem, blocks and the rest are told apart"
        # timm puts what no pattern matches at the end, with the head: nothing of stem or blocks may land there
        classifier = tuple(f"{name}." for name in _names(model.pretrained_cfg["classifier"]))
        last = [name for name in grouped[max(grouped)] if not name.startswith((*classifier, "norm", "fc_norm", "head"))]
        assert len(last) < len(names) / 2

    def test_what_must_not_decay_exists(self) -> None:
        model = self.create()
        names = {name for name, _ in model.named_parameters()}
        # timm's own transformers name tokens that a model may lack
        free = model.no_weight_decay() - {"cls_token", "reg_token", "dist_token", "pos_embed"} if hasattr(model, "no_weight_decay") else set()
        assert free <= names
        own = {name for name in names if name.rpartition(".")[2] in ("lambdas", "memory_k", "memory_v", "height_rel", "width_rel", "rel_height", "rel_width")}
        assert own <= free, "λ, memories and tables of positions"

    def test_gradient_checkpointing_changes_nothing(self) -> None:
        model, x = stir(self.create()).eval(), self.samples()
        results = []
        for enable in (False, True):
            model.set_grad_checkpointing(enable)
            assert model.grad_checkpointing == enable
            model.zero_grad()
            out = model(x)
            out.square().sum().backward()
            results.append([out, *(p.grad.clone() for p in self.learned(model).values())])
        assert all(torch.equal(plain, checkpointed) for plain, checkpointed in zip(*results, strict=True))

    def test_off_the_meta_device_it_starts_as_any_other(self) -> None:
        meta = self.create(device="meta")
        assert all(tensor.is_meta for tensor in meta.state_dict().values())
        model = meta.to_empty(device="cpu")
        model.init_weights()
        plain = self.create()
        # uninitialized memory is NaN in these tests
        assert all(value.isfinite().all() for value in model.state_dict().values())
        assert model.eval()(self.samples()).isfinite().all()
        for (name, got), want in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
            assert got.shape == want.shape
            spread, wanted = got.double().std(correction=0).item(), want.double().std(correction=0).item()
            # drawn apart: a table of n numbers tells its own deviation to about 1 / sqrt(2n)
            assert spread == pytest.approx(wanted, rel=6 / max(got.numel(), 2) ** 0.5, abs=1e-6), f"{name} starts otherwise"

    def test_a_dtype_is_taken_at_construction(self) -> None:
        model = self.create(dtype=torch.float64).eval()
        assert {p.dtype for p in model.parameters()} == {torch.float64}
        assert model(self.samples().double()).dtype == torch.float64

    def test_a_seed_makes_the_same_model(self) -> None:
        models = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            models.append(self.create().state_dict())
        assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
        assert any(not torch.equal(models[0][key], models[2][key]) for key in models[0])

    def test_a_state_dict_goes_round(self) -> None:
        model, x = stir(self.create()).eval(), self.samples()
        fresh = self.create().eval()
        fresh.load_state_dict(copy.deepcopy(model.state_dict()))
        assert torch.equal(fresh(x), model(x))

    def test_a_checkpoint_goes_round_through_timm(self, tmp_path) -> None:
        """The way ``pretrained=True`` goes, with the filter of the checkpoint's layout."""
        model, x = stir(self.create()).eval(), self.samples()
        torch.save(model.state_dict(), tmp_path / "weights.pth")
        loaded = self.create(pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")}).eval()
        assert torch.equal(loaded(x), model(x))

    def test_compiles_without_a_graph_break(self) -> None:
        if not self.traces:
            pytest.skip("another class compiles the same modules")
        model, x = stir(self.create()).eval(), self.samples()
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), model(x), rtol=1e-5, atol=1e-5)

    def test_exports_with_a_dynamic_batch(self) -> None:
        if not self.traces:
            pytest.skip("another class exports the same modules")
        model = stir(self.create()).eval()
        program = torch.export.export(model, (self.samples(),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},), strict=False)
        x = self.samples(5)
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-5)

    @pytest.mark.case("C31")
    def test_the_size_before_pooling_is_of_the_features(self) -> None:
        """Maps say it, tokens have none."""
        features = self.create().eval().forward_features(self.samples())
        want = self.create().pretrained_cfg["pool_size"]
        assert want == (tuple(features.shape[-2:]) if features.ndim == 4 else None)

    @pytest.mark.case("C31", "C9")
    def test_symbolic_traces_compute_the_same(self) -> None:
        """timm's own way with its graph and its way to features, and plain PyTorch's, at another number of samples than one would guess."""
        model = stir(self.create()).eval()
        _, evaluated = get_graph_node_names(model)
        graph = create_feature_extractor(model, evaluated[-1:]).eval()
        plain = torch.fx.symbolic_trace(model)
        for count in (1, 5):
            x = self.samples(count)
            want = model(x)
            (got,) = graph(x).values()
            assert torch.equal(got, want)
            assert torch.equal(plain(x), want)

    @pytest.mark.case("C31", "C9")
    def test_gradients_go_through_symbolic_traces(self) -> None:
        model = stir(self.create()).train()
        _, evaluated = get_graph_node_names(model)
        graph = create_feature_extractor(model, evaluated[-1:]).train()
        (out,) = graph(self.samples()).values()
        out.logsumexp(-1).sum().backward()
        graph_parameters = dict(graph.named_parameters())
        for name in self.learned(model):
            assert name in graph_parameters, f"the graph leaves out {name}"
            assert graph_parameters[name].grad is not None, f"no gradient reaches {name}"

    @pytest.mark.case("C31", "C21")
    @pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
    @pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
    def test_torchscript_is_traced_and_its_compiler_refused_in_plain_words(self) -> None:
        model, x = stir(self.create()).eval(), self.samples()
        with pytest.raises(InputError, match=r"TorchScript's compiler cannot read .*torch\.jit\.trace.*torch\.export"):
            torch.jit.script(model)
        assert all(isinstance(module, nn.Module) for module in model.modules()), "and left whole"
        with torch.no_grad():
            torch.testing.assert_close(torch.jit.trace(model, (x,), check_trace=False)(x), model(x), rtol=1e-5, atol=1e-5)

    def test_copies_are_equal(self) -> None:
        model, x = stir(self.create()).eval(), self.samples()
        assert torch.equal(copy.deepcopy(model)(x), model(x))


def _names(given: Any) -> tuple[str, ...]:
    return tuple(given) if isinstance(given, tuple | list) else (given,)
