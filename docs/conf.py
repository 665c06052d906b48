"""The docs as a site: ``make docs``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from openai_compat import __version__

project = "openai_compat"
author = "The openai_compat authors"
copyright = author  # noqa: A001
release = version = __version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinxcontrib.mermaid"]
exclude_patterns = ["_build", "examples"]

myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
mermaid_width, mermaid_height = "min(100%, 36em)", "auto"
mermaid_fullscreen = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"openai_compat {version}"
html_baseurl = "https://openai-compat.github.io/openai_compat/"
html_theme_options = {
    "source_repository": "https://github.com/openai-compat/openai_compat/",
    "source_branch": "main",
    "source_directory": "docs/",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False

# What a page links to outside docs/ is read where the source is.
OUTSIDE = re.compile(r"\]\(\.\./([^)\s]+)\)")
SOURCE = r"](https://github.com/openai-compat/openai_compat/blob/main/\1)"


def setup(app: object) -> None:
    app.connect("source-read", _link_outside)  # type: ignore[attr-defined]


def _link_outside(app: object, page: str, source: list[str]) -> None:
    if "/" not in page:
        source[0] = OUTSIDE.sub(SOURCE, source[0])
