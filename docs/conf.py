"""Sphinx's settings: ``make docs``."""

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import bertkit

project = "bertkit"
author = "The bertkit authors"
project_copyright = "The bertkit authors, Apache-2.0"
version = release = bertkit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "deflist", "attrs_block"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "bertkit"

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Formulas become MathML, which browsers draw themselves: the pages need no script from the network.
html_math_renderer = "mathml"


def _inline(writer: Any, node: Any) -> None:
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(writer: Any, node: Any) -> None:
    writer.body.append(f'<div style="padding: 0.4rem 0">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
