"""Settings of the documentation; `make docs` builds it."""

import os
import sys
from pathlib import Path

from bids_semantoks.version import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

# The examples run as a user would run them, without a network, and draw into files.
os.environ |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}

project = "bids_semantoks"
author = "The bids_semantoks developers"
copyright = author
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "generated",
    "mathml",
]
html_math_renderer = "mathml"
exclude_patterns = ["_build", "examples", "**/sg_execution_times.rst"]
nitpicky = True
# A dash in two hyphens would change every option on the way to the page.
smartquotes = False

html_theme = "furo"
html_title = f"bids_semantoks {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# Prompts and outputs are not copied.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_show_inherited_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/\d",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "image_scrapers": ("matplotlib",),
    "matplotlib_animations": False,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "copyfile_regex": "",
    "plot_gallery": "True",
    "abort_on_example_error": True,
}
