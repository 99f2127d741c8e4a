"""Denoising attention in lines: λ and the principal angles of V⁺ and V⁻, beside what chance shows."""

from torch import nn

from ...analysis import chance_angles, lambdas, value_angles
from ...attention import DenoisingAttention

__all__ = ["said_of_branches"]


def said_of_branches(model: nn.Module) -> list[str]:
    """A line a layer; none of a model without denoising attention."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, DenoisingAttention)}
    if not layers:
        return []
    strengths, angles = lambdas(model), value_angles(model)
    lines = ["", "layer: λ of its heads (mean, least, most); angles of V⁺ and V⁻ in degrees (smallest, mean over heads)"]
    for name in layers:
        own = strengths[name]
        line = f"  {name}: λ {sum(own) / len(own):.3f} ({min(own):.3f} to {max(own):.3f})"
        heads = [head for head in angles if head.layer == name]
        if heads:
            line += f"; {min(head.smallest for head in heads):.1f}°, {sum(head.mean for head in heads) / len(heads):.1f}°"
        lines.append(line)
    for dim, width in sorted({(module.dim, module.head_dim) for module in layers.values() if module.v_neg is not None}):
        smallest, mean = chance_angles(dim, width, samples=8)
        lines.append(f"  by chance, {width} of {dim} dimensions: {smallest:.1f}°, {mean:.1f}°")
    return lines
