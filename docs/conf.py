"""How the site is built (`make docs`): of the repository's Markdown files where they lie, and of generated pages."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from generate import write_pages  # noqa: E402

import harness  # noqa: E402  # where they are was just said

write_pages(HERE / "generated")

project = "Prunebench"
version = release = harness.__version__
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/**", "experiments/**", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = ["**/.*"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "Prunebench"
html_extra_path = ["generated/root"]
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False


def setup(app: Sphinx) -> None:
    """Give the tables that `prunebench report --format md` wrote the title that a page needs."""
    app.connect("source-read", _titled)


def _titled(app: Sphinx, page: str, text: list[str]) -> None:
    folder, _, name = page.rpartition("/")
    if name == "table":
        text[0] = f"# The table of `{folder}`\n\n{text[0]}"
