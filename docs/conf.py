"""Sphinx's settings: ``make docs``."""

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
