"""What attentions and models cost on this machine, side by side in one run, and only of what computes what it should.

This is ``foveal bench``, for whoever chooses a mechanism; ``benchmarks/`` of the repository makes the numbers of its pages.
"""

from .measure import Bench, Row, Settings, run_bench
from .report import cost_plot, table, write_bench
from .subject import Subject, subject

__all__ = ["Bench", "Row", "Settings", "Subject", "cost_plot", "run_bench", "subject", "table", "write_bench"]
