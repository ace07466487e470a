"""Settings of the documentation: `make docs` builds it into build/docs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ["COLUMNS"] = "100"  # the width of the command line's help
sys.path.insert(0, str(Path(__file__).parent))

import zoo

project = "neuron-zoo"
author = "the authors of neuron-zoo"
project_copyright = f"{author}, Apache-2.0"
release = version = zoo.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
root_doc = "index"
needs_sphinx = "8"

# Every reference has to resolve, but for those into other packages: their inventories would have to be fetched.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(argparse|collections|grpc|keras|keras_tuner|numpy|optuna|os|pathlib|tensorflow|tf|types|typing)\b.*")]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4

default_role = "code"  # the docstrings' single backticks
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 100

html_theme = "furo"
html_title = "neuron-zoo"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "friendly", "monokai"
