"""Sphinx configuration. The site builds offline, with warnings as errors: `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

project = "implayer"
author = "The implayer authors"
copyright = "The implayer authors"
release = version = "0.1.0"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_gallery.gen_gallery", "reference_pages"]
exclude_patterns = [
    "_build",
    "_ext",
    "gallery",
    "auto_examples/*.ipynb",
    "auto_examples/*.py",
    "auto_examples/*.json",
    "auto_examples/*.zip",
    "sg_execution_times.rst",
    "auto_examples/sg_execution_times.rst",
]
templates_path = []
default_role = "code"

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
# Docstrings are Markdown too; f[i](x) in one of them is no link.
suppress_warnings = ["myst.xref_missing", "myst.header", "config.cache"]
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 60

sphinx_gallery_conf = {
    "examples_dirs": ["gallery"],
    "gallery_dirs": ["auto_examples"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "write_computation_times": False,
    "remove_config_comments": True,
    "show_memory": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "implayer"
html_static_path = ["_static"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "navigation_with_keys": False,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
}
