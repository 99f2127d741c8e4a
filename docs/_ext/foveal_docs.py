"""What Foveal's pages need of Sphinx: tables computed at build time, figures drawn at build time, formulas as MathML."""

import inspect
from pathlib import Path
from typing import Any

import figures
import matrices  # noqa: F401  # its tables enter tables.TABLES
import notebooks
import tables
import verbs  # noqa: F401
from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode


class Generated(SphinxDirective):
    """``{generated} NAME arguments``: the Markdown that :mod:`tables` returns for them, in place."""

    required_arguments = 1
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in tables.TABLES:
            raise self.error(f"no generated table {name!r}; there are {', '.join(sorted(tables.TABLES))}")
        # what is computed may change while the page does not
        self.env.note_reread()
        words = self.arguments[1].split() if len(self.arguments) > 1 else []
        return self.parse_text_to_nodes(tables.TABLES[name](*words))


def draw_figures(app: Sphinx) -> None:
    figures.draw_all(Path(app.srcdir) / "_generated")


def run_notebooks(app: Sphinx) -> None:
    try:
        notebooks.write_pages()
    except RuntimeError as error:
        raise ExtensionError(str(error)) from error


def find_reference(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.reference | None:
    """Docstrings name what stands in their own file; the site shows it under its public name. So the end of a name is enough, where it fits one alone."""
    if node.get("refdomain") != "py":
        return None
    target, origin = node["reftarget"], node["refdoc"]
    page = target.rpartition(".")[2]
    if node["reftype"] == "mod" and f"mechanisms/{page}" in env.found_docs:
        return make_refnode(app.builder, origin, f"mechanisms/{page}", "", content)
    fits = {entry.docname: entry for name, entry in env.domains.python_domain.objects.items() if name.endswith(f".{target}")}
    if len(fits) != 1:
        return None
    (entry,) = fits.values()
    return make_refnode(app.builder, origin, entry.docname, entry.node_id, content)


def skip_back_reference(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """A ``Config`` knows the class that it configures, on whose page it stands."""
    return True if name == "module" and inspect.isclass(value) else None


def returns_without_type(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Annotations say what type is returned, docstrings never do; so what stands before a colon there is not to be read as one."""
    for place, line in enumerate(lines[:-1]):
        if line.strip() == "Returns:":
            text = lines[place + 1]
            lines[place + 1] = text[: len(text) - len(text.lstrip())] + ": " + text.lstrip()


def visit_math(self: Any, node: nodes.math) -> None:
    self.body.append(_mathml(node.astext(), block=False))
    raise nodes.SkipNode


def visit_math_block(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{_mathml(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def _mathml(text: str, *, block: bool) -> str:
    try:
        return tex2mathml(text.strip(), as_block=block)
    except MathError as error:
        raise ExtensionError(f"not a formula that docutils can turn into MathML: {text!r}: {error}") from error


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("generated", Generated)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("builder-inited", draw_figures)
    app.connect("builder-inited", run_notebooks)
    # before napoleon, whose priority is 500
    app.connect("autodoc-process-docstring", returns_without_type, priority=400)
    app.connect("autodoc-skip-member", skip_back_reference)
    app.connect("missing-reference", find_reference)
    return {"version": "1", "parallel_read_safe": True}
