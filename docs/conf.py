"""Settings of the documentation: `make docs` builds it into build/docs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from unittest import mock

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

import zoo
from zoo.cli import build_parser
from zoo.console import load_backend

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
load_backend()  # without the notes that TensorFlow writes while loading

project = "neuron-zoo"
author = "the authors of neuron-zoo"
project_copyright = f"{author}, Apache-2.0"
release = version = zoo.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"

# Every reference has to resolve, but for those into other packages: their inventories would have to be fetched.
nitpicky = True
OTHERS = r"(argparse|collections|grpc|importlib|keras|keras_tuner|numpy|optuna|os|pathlib|subprocess|tensorflow|types|typing)\..*"
IMPORTED = "Any|Callable|Figure|HyperModel|Iterable|Iterator|Mapping|Path|Popen|Sequence|Study"
# Names for a type, of which the text beside them says what it is, and what the package keeps to itself.
ALIASES = r"Addresses|Arrays|Domain|Features|ModelSource|Range|Tables|Watch|Manager|tuning\.oracles\.Observation|tuning\.dispatch\.Compilation"
nitpick_ignore_regex = [("py:.*", f"{OTHERS}|{IMPORTED}|{ALIASES}")]

myst_heading_anchors = 4

default_role = "code"  # the docstrings' single backticks
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has them
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 100

html_theme = "furo"
html_title = "neuron-zoo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "friendly", "monokai"


class CommandLine(SphinxDirective):
    """The help of every subcommand that is installed, as the terminal shows it."""

    def run(self) -> list[nodes.Node]:
        with mock.patch.dict(os.environ, {"COLUMNS": "88", "NO_COLOR": "1"}):
            return [self.section(name, parser) for name, parser in subcommands()]

    def section(self, name: str, parser: argparse.ArgumentParser) -> nodes.section:
        help_text = parser.format_help()
        section = nodes.section("", nodes.title("", f"zoo {name}"), ids=[f"zoo-{name}"], names=[f"zoo {name}"])
        section += nodes.literal_block(help_text, help_text, language="text")
        self.state.document.note_explicit_target(section)
        return section


def subcommands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def resolve_by_last_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Element | None:
    """Finds `UsageError` and `zoo.specs.Recipe`, which are documented as `zoo.errors.UsageError` and `zoo.Recipe`."""
    domain = env.domains[node.get("refdomain")] if node.get("refdomain") else None
    if not isinstance(domain, PythonDomain):
        return None
    wanted = node["reftarget"].rpartition(".")[2]
    found = [(name, entry) for name, entry in domain.objects.items() if name.rpartition(".")[2] == wanted and entry.objtype in ("class", "exception")]
    if len(found) != 1:
        return None
    name, entry = found[0]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)


def without_factories(
    app: Sphinx, what: str, name: str, documented: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Writes `...` for a data class's `<factory>`, which is no Python and keeps a signature from being read."""
    return signature and signature.replace("<factory>", "..."), returned


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", without_factories)
    app.add_directive("command-line", CommandLine)
    app.connect("missing-reference", resolve_by_last_name)
