"""Settings of the documentation; `make docs` builds it."""

import sys
from pathlib import Path

from bids_semantoks.version import __version__

sys.path.insert(0, str(Path(__file__).parent))

project = "bids_semantoks"
author = "The bids_semantoks developers"
copyright = author
version = release = __version__
extensions = ["myst_parser", "mathml"]
myst_enable_extensions = ["amsmath", "dollarmath"]
html_math_renderer = "mathml"
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["math.css"]
html_title = f"bids_semantoks {release}"
myst_heading_anchors = 3
suppress_warnings = ["toc.not_readable"]
