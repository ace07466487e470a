"""Puts what the lab measured into docs/lab.md, between the markers of each claim.

    zoo lab --out docs/lab/digits
    zoo lab --dataset mnist --out docs/lab/mnist
    python docs/lab_story.py

Nothing that the lab measured is typed by hand in the story. Figures that the page does not show are removed, and the others are made smaller.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("lab.md")
RESULTS = PAGE.with_suffix("")
DATASETS = {"digits": "digits", "mnist": "MNIST"}
MARKED = re.compile(r"(?P<begin><!-- (?P<claim>[\w-]+): begin -->)\n.*?(?P<end><!-- (?P=claim): end -->)", re.DOTALL)
SHOWN = re.compile(r"!\[[^\]]*\]\(([^)]+\.svg)\)")
SUMMARY = "summary"
FIGURES = {"batchnorm": "mnist"}  # which data set's figure is shown; that of digits for the others


def record(claim: str, dataset: str) -> dict[str, Any]:
    """Returns what `zoo lab` wrote about a claim on a data set."""
    return json.loads((RESULTS / dataset / f"{claim}.json").read_text(encoding="utf-8"))


def verdicts(claim: str) -> str:
    """Returns `holds on digits and on MNIST`, or the two verdicts where they differ."""
    found = {shown: record(claim, dataset)["verdict"] for dataset, shown in DATASETS.items()}
    if len(set(found.values())) == 1:
        return f"{found.popitem()[1].capitalize()}, on {' and on '.join(DATASETS.values())}"
    return ", ".join(f"{verdict} on {shown}" for shown, verdict in found.items()).capitalize().replace("mnist", "MNIST")


def section(claim: str) -> str:
    """Returns what stands under a claim: verdict, measurements, figure, rule and tables."""
    lines = [f"**{verdicts(claim)}.**", ""]
    for dataset, shown in DATASETS.items():
        found = record(claim, dataset)
        lines += [f"- On {shown}, {len(found['seeds'])} seeds: {' '.join(found['sentences'])}"]
    figure = FIGURES.get(claim, "digits")
    lines += ["", f"![The claim {claim}, measured on {DATASETS[figure]}](lab/{figure}/{claim}.svg)", "", f"The rule of the verdict: {found['rule']}"]
    lines += ["", f"Tables: {tables_of(claim)}."]
    return "\n".join(lines)


def tables_of(claim: str) -> str:
    """Returns links to a claim's tables, data set by data set."""
    listed = []
    for dataset, shown in DATASETS.items():
        files = sorted((RESULTS / dataset).glob(f"{claim}-*.csv"))
        listed.append(f"{shown}: " + ", ".join(f"[{file.stem.removeprefix(claim + '-')}](lab/{dataset}/{file.name})" for file in files))
    return "; ".join(listed)


def summary(claims: list[str]) -> str:
    """Returns the table of all claims with a verdict per data set."""
    rows = []
    for claim in claims:
        says = record(claim, "digits")["says"].removesuffix(".")
        rows.append([f"[{says}](#{claim})", *(record(claim, dataset)["verdict"] for dataset in DATASETS)])
    return table(["the text says", *(f"on {shown}" for shown in DATASETS.values())], rows)


def either(claim: str) -> str:
    """Returns what stands between a pair of markers."""
    if claim != SUMMARY:
        return section(claim)
    return summary([match["claim"] for match in MARKED.finditer(PAGE.read_text(encoding="utf-8")) if match["claim"] != SUMMARY])


# -- what the stories have in common ---------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def smaller(svg: str) -> str:
    """Returns a figure with two decimals, a short list of fonts and no indentation: to the eye the same."""
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]+", "font-family: 'DejaVu Sans', Verdana, sans-serif", svg)
    svg = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), svg)
    return re.sub(r"\s*\n\s*", "\n", svg)


def tidy(page: Path, text: str) -> None:
    """Removes what was measured for a page and is not shown on it, and makes the rest smaller."""
    shown = {(page.parent / figure).resolve() for figure in SHOWN.findall(text)}
    for file in sorted(page.with_suffix("").rglob("*")):
        if file.suffix == ".png" or file.name == "README.md" or (file.suffix == ".svg" and file.resolve() not in shown):
            file.unlink()
        elif file.suffix == ".svg":
            file.write_text(smaller(file.read_text(encoding="utf-8")), encoding="utf-8")


def main_of(page: Path, between: Callable[[str], str]) -> int:
    """Writes a page anew; with `--check` only says whether it is the present one.

    Args:
        page: Whose measurements lie in the folder of the same name.
        between: What stands between the markers of a name.

    Returns:
        The status to exit with.
    """
    parser = argparse.ArgumentParser(description=f"Put what was measured into {page.name}.")
    parser.add_argument("--check", action="store_true", help="write nothing; end with status 1 where the page is stale")
    arguments = parser.parse_args()
    text = page.read_text(encoding="utf-8")
    present = MARKED.sub(lambda match: f"{match['begin']}\n{between(match['claim'])}\n{match['end']}", text)
    if arguments.check:
        return int(present != text)
    page.write_text(present, encoding="utf-8")
    tidy(page, present)
    return 0


if __name__ == "__main__":
    sys.exit(main_of(PAGE, either))
