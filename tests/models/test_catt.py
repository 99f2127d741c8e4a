"""CATT's encoder: what passes from layer to layer, masks, and gradients in every stacking. The layer itself is held by golden vectors."""

import copy

import pytest
import torch

from foveal import fit_dictionaries_
from foveal.models import CattEncoder
from tests.attention.contract import assert_close

DIM, ENTRIES = 24, 5
STACKINGS = ["single", "chained", "reinject"]


def encoder(stacking: str = "single", depth: int = 3, **options: object) -> CattEncoder:
    torch.manual_seed(0)
    return CattEncoder(DIM, depth, 4, dictionary_size=ENTRIES, stacking=stacking, **options).double().eval()


def tokens(batch: int = 2, count: int = 6) -> torch.Tensor:
    return torch.randn(batch, count, DIM, dtype=torch.float64)


def mask(*lengths: int, count: int = 6) -> torch.Tensor:
    return (torch.arange(count) < torch.tensor(lengths)[:, None])[:, None, None]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("stacking", STACKINGS)
def test_every_parameter_gets_a_gradient(stacking, share) -> None:
    """In the official network the cross-sample weights of all cross layers but the last get none."""
    model = encoder(stacking, share=share).train()
    model(tokens()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # a bias of keys moves all logits of a row alike, and cancels
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("stacking", STACKINGS)
def test_the_encoder_equals_its_layers_by_hand(stacking) -> None:
    model, x, present = encoder(stacking), tokens(), mask(4, 6)
    h = x
    for layer in model.layers:
        h = layer.own(h, layer.attn(h, present))
    entries, c = model.dictionary.entries[None].expand(2, -1, -1), None
    everyone = torch.ones(2, 1, 1, ENTRIES, dtype=torch.bool)
    for layer in model.two_streams:
        if c is None:
            keys, keys_mask = entries, everyone
        elif stacking == "chained":
            keys, keys_mask = c, present
        else:
            keys, keys_mask = torch.cat([c, entries], 1), torch.cat([present, everyone], -1)
        own, cross = layer.attn(h, present), layer.attn(h, keys_mask, context=keys)
        h, c = layer.own(h, own), layer.own(h, cross)
    want = torch.cat([h, c], -1) @ model.fuse.weight.T + model.fuse.bias
    assert_close(model(x, present), want, 1e-12, "output")
    assert len(model.layers) == (2 if stacking == "single" else 0)


@pytest.mark.parametrize("stacking", STACKINGS)
def test_padding_changes_nothing(stacking) -> None:
    """The mask reaches what a chained stream reads, too."""
    model, x = encoder(stacking), tokens(1)
    noisy = torch.cat([x[:, :4], 100 * torch.randn(1, 2, DIM, dtype=torch.float64)], dim=1)
    assert_close(model(noisy, mask(4))[:, :4], model(x[:, :4]), 1e-10, "output")


@pytest.mark.parametrize("stacking", STACKINGS)
def test_gradient_checkpointing_changes_nothing(stacking) -> None:
    model, x, present = encoder(stacking), tokens(), mask(6, 4)
    calls: list[torch.nn.Module] = []
    for layer in (*model.layers, *model.two_streams):
        layer.register_forward_pre_hook(lambda module, _: calls.append(module))
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        out = model(x, present)
        out.square().sum().backward()
        results.append([out, *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(plain, checkpointed) for plain, checkpointed in zip(*results, strict=True))
    assert len(calls) == 3 + 6, "each layer runs again in the backward pass"


def test_the_chain_carries_little_of_the_dictionary() -> None:
    """Specification: in a chain the dictionary's gradient is small beside single's (measured there 4e-6 against 1e-2 in the official sizes)."""
    sizes = {}
    for stacking in STACKINGS:
        model = encoder(stacking)
        torch.manual_seed(1)
        model(tokens(8)).square().mean().backward()
        sizes[stacking] = model.dictionary.entries.grad.norm().item()
    assert sizes["chained"] < 0.5 * sizes["single"]
    assert sizes["reinject"] > sizes["chained"]


def test_fused_by_identity_and_zero_it_is_the_encoder_without_a_dictionary() -> None:
    model, x = encoder(), tokens()
    with torch.no_grad():
        model.fuse.weight.copy_(torch.eye(DIM, 2 * DIM))
        model.fuse.bias.zero_()
    h = x
    for layer in model.layers:
        h = layer(h)
    top = model.two_streams[0]
    assert_close(model(x), top.own(h, top.attn(h)), 1e-12, "output")


@pytest.mark.parametrize("stacking", STACKINGS)
def test_clusters_are_fitted_where_they_are_read(stacking) -> None:
    model, batches = encoder(stacking, init="kmeans").float(), list(torch.randn(4, 8, 6, DIM))
    with pytest.raises(ValueError, match="fit_dictionaries_"):
        model(batches[0])
    counts = fit_dictionaries_(model, batches)
    assert counts["dictionary"].sum() == 4 * 8 * 6
    with torch.no_grad():
        read = torch.cat([torch.cat(batches)])
        for layer in model.layers:
            read = layer(read)
    other = copy.deepcopy(model)
    other.dictionary.fit(read)
    assert_close(model.dictionary.entries, other.dictionary.entries, 1e-4, "entries")
    present = (torch.arange(6) < torch.tensor([6, 4, 1, 6, 5, 2, 6, 3])[:, None])[:, None, None]
    padded = encoder(stacking, init="kmeans").float()
    counts = fit_dictionaries_(padded, batches, call=lambda model, batch: model(batch, present))
    assert counts["dictionary"].sum() == 4 * present.sum(), "without padding"


@pytest.mark.parametrize(
    ("change", "says"),
    [({"stacking": "chain"}, "did you mean chained"), ({"depth": 0}, "at least one layer"), ({"init": "kmean"}, "kmeans"), ({"dictionary_size": 0}, "entry")],
)
def test_bad_options_are_explained(change, says) -> None:
    with pytest.raises(ValueError, match=says):
        CattEncoder(**{"dim": DIM, "depth": 2, "num_heads": 4} | change)


@pytest.mark.parametrize("wrong", [torch.ones(2, 6, dtype=torch.bool), torch.zeros(2, 1, 1, 6), torch.ones(1, 1, 6, 6, dtype=torch.bool)])
def test_masks_of_another_form_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="attn_mask"):
        encoder()(tokens(), wrong)


@pytest.mark.parametrize("stacking", STACKINGS)
def test_compiles_and_exports(stacking) -> None:
    model, x = encoder(stacking).float(), torch.randn(2, 6, DIM)
    torch._dynamo.reset()
    assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x), 1e-5, "compiled output")
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    x = torch.randn(5, 6, DIM)
    assert_close(program.module()(x), model(x), 1e-5, "exported output")
