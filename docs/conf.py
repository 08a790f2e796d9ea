"""Sphinx configuration."""

import mvx_logger

project = "mvx-logger"
author = "the mvx-logger authors"
copyright = "the mvx-logger authors"  # noqa: A001
release = version = mvx_logger.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "code"
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "mvx-logger"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
