"""What ``torch.distributed.run`` starts in each process: one step and one more of every attention in a host, without looking for unused parameters."""

import gc

import torch
import torch.distributed as dist

# before a process group is there: its functions take the one there is as a default, and would keep it for good
import torch.distributed.nn
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from foveal.attention import attention_class, list_attentions
from foveal.convert import convert_
from tests.convert.test_hosts import SIDE, stirred, timm_vit
from tests.threads import threads_of_process_groups


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name in list_attentions(form="tokens"):
        torch.manual_seed(0)
        model = stirred(timm_vit(depth=1))
        convert_(model, attention_class(name).Config())
        images = torch.randn(4, 3, SIDE, SIDE)
        want = torch.autograd.grad(model(images).square().mean(), list(model.parameters()))
        parallel = DistributedDataParallel(model, find_unused_parameters=False)
        # an unused parameter is an error of the second step
        for _ in range(2):
            parallel.zero_grad()
            parallel(images[2 * rank : 2 * rank + 2]).square().mean().backward()
        check(model, want)
        if rank == 0:
            print(name, flush=True)
    # whoever holds the group keeps its threads, and one of them may abort the process while Python ends
    del parallel
    gc.collect()
    dist.destroy_process_group()
    assert not threads_of_process_groups()


def check(model: nn.Module, want: tuple[torch.Tensor, ...]) -> None:
    for (key, value), gradient in zip(model.named_parameters(), want, strict=True):
        assert value.grad is not None, key
        torch.testing.assert_close(value.grad, gradient, rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


if __name__ == "__main__":
    main()
