"""One page, in one file, on which a reader points at a patch and sees where it looks in every layer and head."""

from .gather import ViewedLayer, ViewedModel, view_model
from .page import AttentionPage, write_page
from .show import show

__all__ = ["AttentionPage", "ViewedLayer", "ViewedModel", "show", "view_model", "write_page"]
