"""Branches that take off, in lines: λ and the principal angles of V⁺ and V⁻, beside what chance shows."""

from torch import nn

from ...analysis import chance_angles, lambdas, value_angles

__all__ = ["said_of_branches"]


def said_of_branches(model: nn.Module) -> list[str]:
    """A line a layer that has λ by head; none of a model without."""
    strengths = lambdas(model)
    if not strengths:
        return []
    angles = value_angles(model)
    lines = ["", "layer: λ of its heads (mean, least, most)" + ("; angles of V⁺ and V⁻ in degrees (smallest, mean over heads)" if angles else "")]
    for name, own in strengths.items():
        line = f"  {name}: λ {sum(own) / len(own):.3f} ({min(own):.3f} to {max(own):.3f})"
        heads = [head for head in angles if head.layer == name]
        if heads:
            line += f"; {min(head.smallest for head in heads):.1f}°, {sum(head.mean for head in heads) / len(heads):.1f}°"
        lines.append(line)
    apart = {head.layer: model.get_submodule(head.layer) for head in angles}
    for dim, width in sorted({(int(module.dim), int(module.head_dim)) for module in apart.values()}):  # type: ignore[arg-type]
        smallest, mean = chance_angles(dim, width, samples=8)
        lines.append(f"  by chance, {width} of {dim} dimensions: {smallest:.1f}°, {mean:.1f}°")
    return lines
