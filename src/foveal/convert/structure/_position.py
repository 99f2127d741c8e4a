"""What a host adds to its logits out of its own parameters: a table, or a small network, read at the places of pairs; or tables that queries are multiplied by.

Shapes     B samples or windows, H heads, N tokens, D head width, L places of a table
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["SQUASHED", "Decomposed", "Table", "TableBias", "position_of"]

SQUASHED: dict[str, Callable[[Tensor], Tensor]] = {"": lambda x: x, "16 sigmoid": lambda x: 16 * x.sigmoid()}
"""What stands between a table and the logits: nothing, or what keeps a continuous bias within 16 (Swin V2, arXiv 2111.09883, and its official code)."""


@dataclass(frozen=True)
class Table:
    """Where the bias of pairs comes from, by paths in the host."""

    path: str
    """Of a parameter, or of a module."""
    kind: str
    """``parameter``, ``module``, or ``decomposed``: two parameters, of rows and of columns."""
    args: tuple[Any, ...] = ()
    """What a module is called with; names of the host's buffers as :class:`Buffer`."""
    kwargs: tuple[tuple[str, Any], ...] = ()
    rows: tuple[Tensor, ...] = ()
    """Places in the flattened table: ``(H,)``, ``(L,)`` and ``(N, N)``, summed as ``heads + rows[pairs]``; or one ``(H, N, N)``."""
    squash: str = ""
    other: str = ""
    """Of the second parameter of a decomposed one."""
    gain: float = 1.0


@dataclass(frozen=True)
class Buffer:
    """A buffer of the host, among the arguments of a module."""

    path: str


class TableBias(nn.Module):
    """A bias of pairs ``(1, H, N, N)`` that depends on no token."""

    of_queries = False

    def __init__(self, module: nn.Module, table: Table) -> None:
        super().__init__()
        self.squash, self.args, self.kwargs = table.squash, table.args, table.kwargs
        self.names: dict[str, str] = {}
        if table.kind == "parameter":
            self.table = module.get_parameter(table.path)
        else:
            self.maker = module.get_submodule(table.path)
        for part in (*table.args, *(value for _, value in table.kwargs)):
            if isinstance(part, Buffer):
                owner, _, key = part.path.rpartition(".")
                self.names[part.path] = f"given_{len(self.names)}"
                self.register_buffer(
                    self.names[part.path], module.get_buffer(part.path), persistent=key not in module.get_submodule(owner)._non_persistent_buffers_set
                )
        device = next(module.parameters()).device
        self.count = len(table.rows)
        for number, rows in enumerate(table.rows):
            # made by conversion, so that it is in no state dict, neither the host's nor ours
            self.register_buffer(f"rows_{number}", rows.to(device), persistent=False)

    def forward(self) -> Tensor:
        values = self.table if hasattr(self, "table") else self.maker(*map(self._known, self.args), **{key: self._known(value) for key, value in self.kwargs})
        flat = SQUASHED[self.squash](values.flatten())
        rows: list[Any] = [getattr(self, f"rows_{number}") for number in range(self.count)]
        if len(rows) == 1:
            return flat[rows[0]][None]
        heads, places, pairs = rows
        return flat[heads[:, None] + places][:, pairs][None]

    def _known(self, value: Any) -> Any:
        return getattr(self, self.names[value.path]) if isinstance(value, Buffer) else value


class Decomposed(nn.Module):
    """Queries times tables of rows and of columns, ``(2 · side − 1, D)`` each: as in MViTv2 (arXiv 2112.01526, eq. 4) and SAM."""

    of_queries = True

    def __init__(self, rows: nn.Parameter, columns: nn.Parameter, gain: float = 1.0) -> None:
        super().__init__()
        self.rows, self.columns, self.gain = rows, columns, gain

    @property
    def grid(self) -> tuple[int, int]:
        """Of the tokens: a table has a place for every distance, forth and back."""
        return (len(self.rows) + 1) // 2, (len(self.columns) + 1) // 2

    def forward(self, q: Tensor) -> Tensor:
        """``(B, H, N, D)`` to ``(B, H, N, N)``."""
        height, width = self.grid
        maps = q.unflatten(2, (height, width))
        of_rows = torch.einsum("bnhwc,hkc->bnhwk", maps, _between(self.rows, height))
        of_columns = torch.einsum("bnhwc,wkc->bnhwk", maps, _between(self.columns, width))
        added = (of_rows[..., :, None] + of_columns[..., None, :]).flatten(4).flatten(2, 3)
        return added if self.gain == 1 else added * self.gain


def _between(table: Tensor, side: int) -> Tensor:
    """``(side, side, D)``, of each distance its place."""
    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places + side - 1]


def position_of(module: nn.Module, table: Table | None) -> TableBias | Decomposed | None:
    """With the module's own parameters."""
    if table is None:
        return None
    if table.kind == "decomposed":
        return Decomposed(module.get_parameter(table.path), module.get_parameter(table.other), table.gain)
    return TableBias(module, table)
