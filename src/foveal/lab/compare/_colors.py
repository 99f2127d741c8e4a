"""The colors of arms, in every figure of a report."""

__all__ = ["ARM_COLORS"]

# Okabe and Ito's palette, which color-blind readers can tell apart; the baseline is gray
ARM_COLORS = ("#6b6b6b", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#b2182b")
