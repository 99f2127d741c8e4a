"""The colours of arms, in every figure of a report."""

__all__ = ["ARM_COLOURS"]

# Okabe and Ito's palette, which colour-blind readers can tell apart; the baseline is grey
ARM_COLOURS = ("#6b6b6b", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#b2182b")
