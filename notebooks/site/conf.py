"""Sphinx's configuration. `build.py` prepares what it reads, and says where that is."""

import json
import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import equations  # noqa: E402


project = "fdbook"
author = "The fdbook authors"
copyright = "The fdbook authors, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.mathjax"]
exclude_patterns = ["figures"]

html_theme = "furo"
html_title = "fdbook"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_js_files = ["equations.js", "book.js"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False

nb_execution_mode = "off"
suppress_warnings = [
    "ref.python"
]  # types in signatures are written without their modules; two classes may share a name
nb_render_markdown_format = "myst"
nb_merge_streams = True
nb_code_prompt_show = "Show code"
nb_code_prompt_hide = "Hide code"
myst_enable_extensions = ["dollarmath", "colon_fence", "smartquotes"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

add_module_names = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

MATHJAX = "mathjax/tex-svg.js"
mathjax_path = MATHJAX
mathjax3_config = {"svg": {"fontCache": "global"}, "options": {"enableMenu": False}}


def setup(app):
    """The book's own transforms, and MathJax from the installed package."""
    app.add_config_value("known_names", {}, "env")
    app.add_transform(equations.Anchors)
    app.add_transform(equations.Links)
    app.add_transform(equations.Names)
    names = json.loads((Path(app.srcdir) / "names.json").read_text(encoding="utf-8"))
    app.config.known_names = {name: tuple(place) for name, place in names.items()}
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def finish(app, failure):
    """Copies MathJax, of which a page loads one file and in rare cases an extension of TeX, and writes the equations' script."""
    if failure is not None:
        return
    static = Path(app.outdir) / "_static"
    source = Path(distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline/static/mathjax"))
    (static / "mathjax").mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "tex-svg.js", static / MATHJAX)
    shutil.copytree(source / "input" / "tex" / "extensions", static / "mathjax" / "input" / "tex" / "extensions")
    (static / "equations.js").write_text(equations.script(), encoding="utf-8")
