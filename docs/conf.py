"""Settings of the documentation; `make docs` builds it."""

from bids_semantoks.version import __version__

project = "bids_semantoks"
author = "The bids_semantoks developers"
copyright = author
version = release = __version__
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"bids_semantoks {release}"
myst_heading_anchors = 3
suppress_warnings = ["toc.not_readable"]
