"""`zoo export`: writes SavedModels for TF Serving."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo.console import console, load_backend, print_json
from zoo.errors import UsageError
from zoo.export import export_model, export_report

HELP = "export trained models as SavedModels for TF Serving"
EXAMPLES = """  zoo export cnn_bn.mnist
  zoo export cnn_bn.mnist relu_mlp.mnist --to /srv/models
  zoo export runs/my-run --name digits --version 3"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", metavar="NAME", nargs="+", help="a pretrained name, or the directory of a training run")
    parser.add_argument("--to", type=Path, default=Path("saved_models"), help="the model repository (default: saved_models)")
    parser.add_argument("--version", type=int, help="the version's number (default: the next free one)")
    parser.add_argument("--name", help="the model's name in the repository (default: the source's)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.name is not None and len(arguments.sources) > 1:
        raise UsageError(f"--name names one model. Received {len(arguments.sources)} sources.")
    load_backend()
    reports = []
    for source in arguments.sources:
        report = export_report(export_model(source, arguments.to, version=arguments.version, name=arguments.name))
        reports.append(report)
        if not arguments.json:
            console().print(f"{report['name']} version {report['version']}: {report['directory']} ({report['bytes'] / 1e6:.1f} MB)", markup=False)
    if arguments.json:
        print_json(reports)
    else:
        console().print(f"serve with: zoo serve {arguments.to}", markup=False)
    return 0
