"""Counts of the published networks, what stands where, and what is refused. Their functions are held by golden vectors: tests/official, test_step.py."""

import copy

import pytest
import torch
import torch.nn.functional as F

from foveal import InputError
from foveal.models import SAGAN, GanMixer, SAGANDiscriminator, SAGANGenerator, list_gan_mixers
from foveal.models.sagan import batch_statistics, standing_statistics


def count(module: torch.nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


@pytest.mark.parametrize(
    ("img_size", "classes", "attention", "generator", "discriminator"),
    [
        (32, 10, "sagan", 4_386_308, 1_075_586),
        (32, 10, "external", 4_386_308, 1_075_586),
        (32, 10, "none", 4_304_387, 1_055_105),
        (64, 200, "sagan", 13_387_396, 19_752_642),
        (64, 200, "external", 13_387_396, 19_752_642),
        (64, 200, "none", 13_366_915, 19_747_521),
        (128, 1000, "sagan", 42_017_412, 39_448_258),
        (128, 1000, "external", 42_017_412, 39_448_258),
        (128, 1000, "pointwise", 42_017_412, 39_448_258),
        (128, 1000, "none", 41_996_931, 39_443_137),
    ],
)
def test_weights_are_as_many_as_published(img_size, classes, attention, generator, discriminator) -> None:
    with torch.device("meta"):
        model = SAGAN(attention=attention).build(img_size=img_size, in_chans=3, num_classes=classes)
    assert (count(model.G), count(model.D)) == (generator, discriminator)


def test_mixers_of_equal_weight_are_so() -> None:
    assert [count(GanMixer(channels)) for channels in (256, 128)] == [81_921, 20_481]
    for attention in ("external", "pointwise"):
        assert count(GanMixer(64, attention)) == count(GanMixer(64)) == 5 * 64**2 // 4 + 1
    assert count(GanMixer(64, "denoising")) == 15 * 64**2 // 8 + 2
    assert count(GanMixer(64, "sagan", {"value_share": 13 / 16})) == 15 * 64**2 // 8 + 1
    assert count(GanMixer(256, "external", {"inner": 256, "slots": 64})) == 163_841


@pytest.mark.parametrize("attention", list_gan_mixers())
def test_every_mixer_begins_as_the_identity_and_learns_away_from_it(attention) -> None:
    torch.manual_seed(0)
    mixer, x = GanMixer(16, attention), torch.randn(2, 16, 4, 4)
    assert torch.equal(mixer(x), x)
    if attention == "none":
        assert not list(mixer.parameters())
        return
    optimizer = torch.optim.SGD(mixer.parameters(), lr=0.01)
    for _ in range(2):
        # two gates at 0, one behind the other, would stay shut
        mixer(x).square().sum().backward()
        optimizer.step()
    assert not torch.equal(mixer(x), x)


@pytest.mark.parametrize("attention", ["sagan", "denoising"])
def test_softmax_over_pooled_keys_by_hand(attention) -> None:
    """In loops, on a map of odd sides: pooled as max-pool does, and in a single row not that way."""
    torch.manual_seed(0)
    for height, width in ((4, 6), (3, 5), (1, 4), (1, 1)):
        mixer = GanMixer(8, attention).double().eval()
        torch.nn.init.constant_(mixer.sigma, 0.7)
        x = torch.randn(1, 8, height, width, dtype=torch.float64)
        core = mixer.core

        def pooled(part, x=x, height=height, width=width):
            y, down, across = part(x)[0], 2 if height > 1 else 1, 2 if width > 1 else 1
            rows = [[y[:, r : r + down, c : c + across].amax((1, 2)) for c in range(0, width - across + 1, across)] for r in range(0, height - down + 1, down)]
            return torch.stack([cell for row in rows for cell in row])

        def gathered(query, values, sign, core=core, x=x, pooled=pooled):
            keys, q = pooled(core.k), query(x)[0].flatten(1).T
            return torch.stack([(sign * (keys @ one)).softmax(0) @ pooled(values) for one in q])

        out = gathered(core.q, core.v, 1)
        if attention == "denoising":
            out = out - core.lambdas * gathered(core.q_neg, core.v_neg, -1)
        wanted = x + 0.7 * F.conv2d(out.T.reshape(1, -1, height, width), mixer.proj.normalized())
        torch.testing.assert_close(mixer(x), wanted, rtol=1e-9, atol=1e-12)


def test_maps_are_what_is_applied() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 16, 4, 4)
    combined = GanMixer(16).eval().attention_map(x)["combined"]
    assert combined.shape == (1, 1, 16, 4)
    torch.testing.assert_close(combined.sum(-1), torch.ones(1, 1, 16))
    assert set(GanMixer(16, "denoising").eval().attention_map(x)) == {"positive", "negative", "combined"}
    assert set(GanMixer(16, "external").eval().attention_map(x)) == {"slots", "combined"}
    assert GanMixer(16, "pointwise").attention_map(x) == {}


def test_an_image_does_not_depend_on_its_batch_in_the_discriminator() -> None:
    torch.manual_seed(0)
    for name, arm in SAGAN(width=8, z_dim=16).arms().items():
        discriminator = arm.model.build(img_size=8, in_chans=3, num_classes=3).D.eval()
        for mixer in discriminator.mixers.values():
            torch.nn.init.ones_(mixer.sigma)
        x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
        with torch.no_grad():
            scores = discriminator(x, y)
            torch.testing.assert_close(discriminator(x[:1], y[:1]), scores[:1], rtol=1e-4, atol=1e-4, msg=name)
        assert scores.shape == (4,)


def test_batch_norm_is_for_generators_alone() -> None:
    assert "external_2d" in list_gan_mixers()
    assert "external_2d" not in list_gan_mixers(batch_norm=False)
    settings = SAGAN(attention="external_2d", width=8)
    with pytest.raises(InputError, match="has batch norm inside"):
        settings.build(img_size=8, in_chans=3, num_classes=0)
    assert "external_2d" not in settings.arms()
    alone = SAGAN(attention="external_2d", width=8, attention_d=())
    assert len(alone.build(img_size=8, in_chans=3, num_classes=0).D.mixers) == 0
    assert "external_2d" in alone.arms()


def test_without_classes_nothing_is_embedded_and_batch_norm_has_weights_of_its_own() -> None:
    model = SAGAN(width=8, z_dim=16).build(img_size=16, in_chans=1, num_classes=0)
    assert model.D.embed is None
    assert model.G.blocks[0].norm1.norm.affine
    assert model(torch.randn(2, 16)).shape == (2, 1, 16, 16)
    assert model.D(torch.randn(2, 1, 16, 16)).shape == (2,)


def test_statistics_of_the_batch_leave_no_trace_and_standing_ones_are_the_mean() -> None:
    torch.manual_seed(0)
    generator = SAGANGenerator(img_size=8, z_dim=4, width=2, num_classes=0, attention="none").eval()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    z = torch.randn(6, 4)
    with torch.no_grad():
        plain = generator(z)
        with batch_statistics(generator):
            batch = generator(z)
        trained = generator.train()(z)
        generator.load_state_dict(before)
        seen: list[torch.Tensor] = []
        norm = generator.blocks[0].norm1.norm
        hook = norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        generator.eval()
        latents = [torch.randn(5, 4) for _ in range(3)]
        for one in latents:
            generator(one)
        hook.remove()
        standing = standing_statistics(generator, lambda model, number: model(latents[number]), 3)
    assert not torch.allclose(plain, batch, atol=1e-3)
    torch.testing.assert_close(batch, trained, rtol=1e-3, atol=1e-4)
    for name, value in before.items():
        assert torch.equal(generator.state_dict()[name], value), name
    torch.testing.assert_close(standing.blocks[0].norm1.norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SAGANGenerator(img_size=48), "32, 64, 128 pixels a side, got 48×48"),
        (lambda: SAGANDiscriminator(img_size=(32, 64)), "got 32×64"),
        (lambda: SAGANGenerator(img_size=8, width=2, places=(2,)), "blocks 1 to 1"),
        (lambda: SAGANDiscriminator(img_size=8, width=2, places=(1, 1)), "at most once"),
        (lambda: GanMixer(8, "softmaxx"), "softmax"),
        (lambda: GanMixer(8, "none", {"slots": 3}), "no options"),
        (lambda: GanMixer(8, "sagan", {"slots": 3}), "do not fit sagan"),
        (lambda: SAGANGenerator(img_size=8, width=2, z_dim=4)(torch.randn(2, 5)), r"latents \(B, 4\)"),
        (lambda: SAGANGenerator(img_size=8, width=2, z_dim=4, num_classes=3)(torch.randn(2, 4)), "draws by class"),
        (lambda: SAGANDiscriminator(img_size=8, width=2, num_classes=3)(torch.randn(2, 3, 8, 8)), "judges by class"),
        (lambda: SAGANDiscriminator(img_size=8, width=2)(torch.randn(2, 1, 8, 8)), "expects images"),
    ],
)
def test_what_makes_no_network_is_refused(make, says) -> None:
    with pytest.raises(InputError, match=says):
        make()


def test_a_training_step_compiles_without_breaks_and_moves_what_it_moves_otherwise() -> None:
    """Spectral norm moves buffers in the forward pass: the compiled networks move them likewise."""
    plain = SAGAN(width=2, z_dim=4, attention="external").build(img_size=8, in_chans=3, num_classes=2).train()
    with torch.no_grad():
        for value in plain.parameters():
            # away from where u and v have settled
            value.add_(0.1 * torch.randn_like(value))
    model, start = copy.deepcopy(plain), copy.deepcopy(plain)
    z, y = torch.randn(2, 4), torch.tensor([0, 1])
    compiled = torch.compile(lambda z, y: model.D(model.G(z, y), y), fullgraph=True, backend="eager")
    scores, want = compiled(z, y), plain.D(plain.G(z, y), y)
    torch.testing.assert_close(scores, want, rtol=1e-5, atol=1e-6)
    for part in (scores, want):
        part.sum().backward()
    assert (plain.G.conv.spectral.u - start.G.conv.spectral.u).abs().max() > 1e-4, "there is something to move"
    for (name, value), wanted in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6, msg=name)
    for value, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value.grad, wanted.grad, rtol=1e-4, atol=1e-5)


def test_it_runs_in_autocast() -> None:
    model = SAGAN(width=2, z_dim=4, attention="external").build(img_size=8, in_chans=3, num_classes=2)
    y = torch.tensor([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        scores = model.D(model.G(torch.randn(2, 4), y), y)
    scores.float().sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
