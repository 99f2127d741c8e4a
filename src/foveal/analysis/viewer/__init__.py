"""One page, in one file, on which a reader points at a patch and sees where it looks in every layer and head."""

from .gather import view_model
from .page import AttentionPage, write_page
from .show import show
from .viewed import ViewedLayer, ViewedModel

__all__ = ["AttentionPage", "ViewedLayer", "ViewedModel", "show", "view_model", "write_page"]
