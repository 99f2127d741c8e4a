"""How large the viewer's page is: ``python -m benchmarks.viewer`` prints the table of docs/viewer.md."""

import timm
import torch
from torch import nn

import foveal
from foveal.analysis.viewer import show

IMAGE = torch.nn.functional.interpolate(torch.randn(1, 3, 14, 14, generator=torch.Generator().manual_seed(0)), 224, mode="bicubic")[0]


def network(name: str, sharp: float) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name)
    for block in model.blocks:
        block.attn.qkv.weight.data[: 2 * block.attn.qkv.in_features] *= sharp
    return model.eval()


def main() -> None:
    rows = []
    for name, sharp in (("vit_base_patch16_224", 1.0), ("vit_base_patch16_224", 4.0)):
        said = "as drawn" if sharp == 1 else "looks at few"
        rows.append((f"ViT-B/16, {said}", show(network(name, sharp), IMAGE)))
    plain = network("vit_base_patch16_224", 4.0)
    signed = network("vit_base_patch16_224", 4.0)
    foveal.convert_(signed, foveal.DenoisingAttention.Config())
    rows.append(("ViT-B/16 before and after conversion to denoising attention", show(plain, IMAGE, against=signed)))
    for what, page in rows:
        print(f"| {what} | {len(page.html.encode()) / 1e6:.1f} | {page.steps} | {page.error:.1e} |", flush=True)


if __name__ == "__main__":
    main()
