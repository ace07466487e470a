"""`zoo export`: writes SavedModels for TF Serving, and what it takes to run it on them."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo.console import console, load_backend, print_json
from zoo.deployment import TARGETS, write_deployment
from zoo.errors import UsageError
from zoo.export import FORMATS, SAVED_MODEL, check_formats, export_model, export_report

HELP = "export trained models as SavedModels for TF Serving"
EXAMPLES = """  zoo export cnn_bn.mnist
  zoo export cnn_bn.mnist relu_mlp.mnist --to /srv/models
  zoo export runs/my-run --name digits --version 3
  zoo export cnn_bn.mnist --format saved_model,litert,onnx
  zoo export cnn_bn.mnist --deploy docker
  zoo export --to /srv/models --deploy kubernetes     for the models that are there"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", metavar="NAME", nargs="*", help="a pretrained name, or the directory of a training run")
    parser.add_argument("--to", type=Path, default=Path("saved_models"), help="the model repository (default: saved_models)")
    parser.add_argument("--version", type=int, help="the version's number (default: the next free one)")
    parser.add_argument("--name", help="the model's name in the repository (default: the source's)")
    parser.add_argument(
        "--format",
        metavar="FORMATS",
        default=SAVED_MODEL,
        help=f"what a version holds, of {', '.join(FORMATS)}; the SavedModel is always there (default: {SAVED_MODEL})",
    )
    parser.add_argument("--deploy", choices=TARGETS, help="write the files that run TF Serving on the repository there")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    if not arguments.sources and not arguments.deploy:
        raise UsageError("Name what to export: a pretrained name such as cnn_bn.mnist, or the directory of a training run.")
    if arguments.name is not None and len(arguments.sources) != 1:
        raise UsageError(f"--name names one model. Received {len(arguments.sources)} sources.")
    formats = arguments.format.split(",")
    check_formats(formats)
    load_backend()
    reports = []
    for source in arguments.sources:
        report = export_report(export_model(source, arguments.to, version=arguments.version, name=arguments.name, formats=formats))
        reports.append(report)
        if not arguments.json:
            console().print(f"{report['name']} version {report['version']}: {report['directory']} ({report['bytes'] / 1e6:.1f} MB)", markup=False)
    deployment = write_deployment(arguments.to, arguments.deploy) if arguments.deploy else None
    if arguments.json and deployment:
        print_json({"exports": reports, "deployment": {"files": [str(path) for path in deployment.files], "command": deployment.command}})
    elif arguments.json:
        print_json(reports)
    elif deployment:
        for path in deployment.files:
            console().print(str(path), markup=False)
        console().print(f"run with: {deployment.command}", markup=False)
    else:
        console().print(f"serve with: zoo serve {arguments.to}", markup=False)
    return 0
