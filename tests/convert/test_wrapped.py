"""Models in wrappers that hold what they were: refused with the remedy, before anything is changed, by everything that would change them."""

import os
import socket
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from foveal import ExternalAttention, ExternalAttention2d, InputError, SoftmaxAttention, calibrate_, convert, convert_, insert_, load_delta, revert_, save_delta
from tests.convert.test_carried import assert_same, everything
from tests.convert.test_hosts import timm_vit, torchvision_vit, transformers_tower

SOFTMAX = SoftmaxAttention.Config()


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one process."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def assert_refused(model: nn.Module, inside: nn.Module | None = None, says: str = "before you wrap") -> None:
    before = everything(inside or model)
    with pytest.raises(InputError, match=f"convert {says}"):
        convert_(model, SOFTMAX)
    with pytest.raises(InputError, match=f"insert {says}"):
        insert_(model, ExternalAttention2d.Config(slots=3), after="*", channels=24)
    assert_same(before, everything(inside or model))


def assert_inner_refused(make) -> None:
    """The wrapper is one of the model's blocks."""
    model = timm_vit()
    model.blocks[1] = make(model.blocks[1])
    assert_refused(model)


@pytest.mark.case("C2")
@pytest.mark.parametrize("host", [timm_vit, torchvision_vit, lambda: transformers_tower("ViT")], ids=["timm", "torchvision", "transformers"])
def test_distributed_data_parallel(alone, host) -> None:
    wrapped = DistributedDataParallel(host())
    assert_refused(wrapped)
    assert_refused(wrapped.module)
    assert_inner_refused(DistributedDataParallel)


@pytest.mark.case("C2")
def test_afterwards_too(alone, tmp_path) -> None:
    model = timm_vit()
    convert_(model, SOFTMAX)
    before = everything(model)
    wrapped = DistributedDataParallel(model)
    images = torch.randn(2, 3, 32, 32)
    with pytest.raises(InputError, match="revert before you wrap"):
        revert_(model)
    with pytest.raises(InputError, match="calibrate before you wrap"):
        calibrate_(model, None, [images, images])
    save_delta(model, tmp_path / "delta.safetensors")
    with pytest.raises(InputError, match="load before you wrap"):
        load_delta(wrapped, tmp_path / "delta.safetensors")
    assert_same(before, everything(model))
    del wrapped
    assert len(revert_(model)) == 3, "no wrapper any more"


@pytest.mark.case("C25")
def test_sharded_models(alone) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (1,))
    for whole in (True, False):
        model = timm_vit()
        fully_shard(model.blocks[1], mesh=mesh)
        if whole:
            fully_shard(model, mesh=mesh)
        with pytest.raises(InputError, match=r"sharded by fully_shard.*convert before you wrap"):
            convert_(model, SOFTMAX)
    model = timm_vit()
    parallelize_module(model.blocks[0].mlp, mesh, {"fc1": ColwiseParallel()})
    with pytest.raises(InputError, match=r"blocks\.0\.mlp\.fc1\.weight is a DTensor.*convert before you wrap"):
        convert_(model, SOFTMAX)


@pytest.mark.case("C2", "C25")
@pytest.mark.parametrize("make", [DataParallel, AveragedModel], ids=lambda make: make.__name__)
def test_other_wrappers(make) -> None:
    assert_refused(make(timm_vit()))
    assert_inner_refused(make)


@pytest.mark.case("C2")
def test_compiled_models() -> None:
    for make in (torch.compile, lambda module: (module.compile(), module)[1]):
        assert_refused(make(timm_vit()), says="first and compile then")
        model = timm_vit()
        model.blocks[1] = make(model.blocks[1])
        assert_refused(model, says="first and compile then")
        with pytest.raises(InputError, match="convert first and compile then"):
            convert(model, SOFTMAX)


@pytest.mark.case("C17")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("host", [timm_vit, torchvision_vit, lambda: transformers_tower("ViT")], ids=["timm", "torchvision", "transformers"])
def test_quantized_models_have_a_reason(host) -> None:
    model = torch.ao.quantization.quantize_dynamic(host().eval(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(InputError, match=r"is quantized .*convert first and quantize then"):
        convert_(model, SOFTMAX)
    model = host().train()
    layer = next(module for module in model.modules() if type(module) is nn.Linear)
    layer.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    prepared = torch.ao.quantization.prepare_qat(nn.Sequential(model))
    with pytest.raises(InputError, match="is quantized or prepared for it"):
        convert_(prepared, SOFTMAX)


@pytest.mark.case("C23")
@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_callers_defaults_are_not_the_models(device, dtype) -> None:
    """Under another default device or dtype, the same model to the last bit."""
    from foveal.attention import attention_class, list_attentions

    for name in list_attentions(form="tokens"):
        torch.manual_seed(0)
        host, config = timm_vit(qk_norm=True), attention_class(name).Config()
        torch.manual_seed(1)
        want, _ = convert(host, config)
        torch.manual_seed(1)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                got, _ = convert(host, config)
        finally:
            torch.set_default_dtype(default)
        for key, value in want.state_dict().items():
            other = got.state_dict()[key]
            assert (other.dtype, other.device) == (value.dtype, value.device), (name, key)
            assert torch.equal(other, value), (name, key)


def test_external_places_need_no_wrapper(tmp_path) -> None:
    """Nothing is refused that is not wrapped, with processes or without."""
    assert "WORLD_SIZE" not in os.environ
    assert len(convert_(timm_vit(), ExternalAttention.Config(slots=3)).swaps) == 3
