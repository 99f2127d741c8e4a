"""The site of the documentation: ``make docs``, then open ``build/docs/index.html``."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "_ext"), str(HERE.parent)]

import foveal  # noqa: E402 (the path above first, so that the extension is found)

project = "Foveal"
author = "The Foveal authors"
project_copyright = f"%Y, {author}"
version = release = foveal.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "foveal_docs"]
exclude_patterns = ["_generated", "figures", "_ext", "own"]

# what lies in notebooks/ is executed by foveal_docs, or was by the tests
nb_execution_mode = "off"
nb_merge_streams = True

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# a block that names no language is a shell's, or none's
highlight_language = "text"
# a reference to a name that no page documents is an error; a name without a dot may be of something in the same file that is not public
nitpicky = True
# and what has blanks is prose in front of a colon, which napoleon takes for a type
nitpick_ignore_regex = [("py:.*", r"\w+"), ("py:class", r".* .*")]
# names of choices, and bases that are no part of the public API
nitpick_ignore_regex += [
    ("py:data", r"foveal\.models\.(lxmert|image_language)\.\w+"),
    ("py:class", r"foveal\.models\.image_language\.(streams|additive|second)\.\w+"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Shape"]
# rendered by the browser from MathML, so that the site can be read without a network
html_math_renderer = "mathml"

html_theme = "furo"
html_title = "Foveal"
html_static_path = ["_static"]
html_css_files = ["foveal.css"]
html_theme_options = {"source_repository": "https://github.com/foveal/foveal", "source_branch": "main", "source_directory": "docs/"}
