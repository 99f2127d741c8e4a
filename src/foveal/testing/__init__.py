"""Tests that every attention of Foveal inherits, for attentions of your own. Needs pytest; nothing else in the library imports this.

from foveal.testing import AttentionContract

class TestMine(AttentionContract):
    name = "mine"
    def oracle(self, module, x, present): ...
"""

from .._errors import missing_extra

try:
    import pytest
except ImportError as error:
    raise missing_extra("pytest", "testing", "foveal.testing") from error

# before they are imported, so that a failing assertion shows its numbers
pytest.register_assert_rewrite("foveal.testing._contract", "foveal.testing._half", "foveal.testing._reads")

from ._contract import DIM, HEADS, AttentionContract, assert_close, assert_equal  # noqa: E402
from ._reads import HostRead, no_host_reads  # noqa: E402

__all__ = ["DIM", "HEADS", "AttentionContract", "HostRead", "assert_close", "assert_equal", "no_host_reads"]
