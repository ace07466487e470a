"""`zoo check`: what TF Serving would do with a SavedModel, before it does it."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo.check import ERROR, NOTE, WARNING, Finding, check
from zoo.console import console, load_backend, print_json

HELP = "predict what TF Serving would do with SavedModels, and how to mend it"
EXAMPLES = """  zoo check saved_models
  zoo check /srv/models/my_model
  zoo check /srv/models/models.config
  zoo check /srv/models/my_model/3 --json    exits with status 1 where there is an error"""
COLOURS = {ERROR: "red", WARNING: "yellow", NOTE: "cyan"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="DIR", type=Path, help="a version, a model's folder, a repository, or a models.config; of any origin")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    load_backend()
    findings = check(arguments.path)
    if arguments.json:
        print_json([_as_dict(finding) for finding in findings])
    else:
        _show(findings, arguments.path)
    return 1 if any(finding.severity == ERROR for finding in findings) else 0


def _as_dict(finding: Finding) -> dict[str, str]:
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "path": str(finding.path),
        "what": finding.what,
        "consequence": finding.consequence,
        "mend": finding.mend,
    }


def _show(findings: list[Finding], path: Path) -> None:
    from rich.text import Text

    screen = console()
    for finding in findings:
        screen.print(Text(f"{finding.severity} ", COLOURS[finding.severity]) + Text(f"{finding.rule}  {finding.path}: {finding.what}", "default"))
        screen.print(f"    {finding.consequence}", markup=False)
        screen.print(f"    Mend: {finding.mend}", markup=False)
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in (ERROR, WARNING, NOTE)}
    counted = ", ".join(f"{count} {severity}{'s' if count != 1 else ''}" for severity, count in counts.items() if count)
    screen.print(f"{path}: {counted or 'TF Serving will load and serve it'}", markup=False)
