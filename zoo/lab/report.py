"""Runs a claim's experiment and writes what came of it: tables, figure, verdict, and one page over all."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import UsageError
from zoo.figures import save_figure
from zoo.files import write_text
from zoo.lab.claim import Claim, Finding, Row, Tables, Verdict
from zoo.lab.laboratory import Laboratory

PAGE = "README.md"


@dataclass(frozen=True)
class Outcome:
    """What a claim's experiment gave.

    Attributes:
        claim: The claim.
        finding: The verdict and its three sentences.
        tables: Everything that was measured.
        files: What was written: CSV tables, the figure as SVG and PNG, the finding as JSON.
        seconds: Wall time of the experiment.
        dataset: What it was measured on.
        seeds: From which every training started.
    """

    claim: Claim
    finding: Finding
    tables: Tables
    files: tuple[Path, ...]
    seconds: float
    dataset: str
    seeds: tuple[int, ...]


def examine(claim: Claim, laboratory: Laboratory, directory: str | Path) -> Outcome:
    """Measures a claim and writes its tables, figure and verdict.

    Args:
        claim: From `zoo.lab.claim`.
        laboratory: Gives images, seeds and trained networks.
        directory: Where the files go: `<claim>.json`, `<claim>.svg`, `<claim>.png`, and `<claim>-<table>.csv` per table.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    directory = Path(directory)
    started = time.perf_counter()
    tables = claim.measure(laboratory)
    seconds = time.perf_counter() - started
    finding = claim.judge(tables)
    files = [write_table(directory / f"{claim.name}-{name}.csv", rows) for name, rows in tables.items()]
    files += save_figure(lambda figure: claim.draw(tables, figure), directory / claim.name)
    record = {
        "claim": claim.name,
        "says": claim.says,
        "verdict": finding.verdict.value,
        "sentences": finding.sentences,
        "rule": claim.rule,
        "dataset": laboratory.dataset,
        "seeds": laboratory.seeds,
        "seconds": round(seconds, 1),
    }
    files.append(directory / f"{claim.name}.json")
    write_text(files[-1], json.dumps(record, indent=2) + "\n")
    return Outcome(claim, finding, tables, tuple(files), seconds, laboratory.dataset, laboratory.seeds)


def write_table(path: Path, rows: Sequence[Row]) -> Path:
    """Writes rows with the same columns as CSV, atomically.

    Args:
        path: The file.
        rows: At least one; the columns are in the order of the first.

    Returns:
        The file.
    """
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())
    return path


def write_page(outcomes: Sequence[Outcome], directory: str | Path) -> Path:
    """Writes one page, Markdown, with every outcome: the claim, the verdict, the figure and where the tables are.

    Returns:
        `README.md` in the directory.

    Raises:
        UsageError: There are no outcomes.
    """
    if not outcomes:
        raise UsageError("A page needs at least one outcome. Received: none.")
    first = outcomes[0]
    lines = [
        "# The lab: what the text says, and what was measured",
        "",
        f"On {first.dataset}, {len(first.seeds)} seeds; intervals are 95 % over seeds. Measured on training images that were held out.",
        "",
        "| claim | verdict |",
        "|---|---|",
        *(f"| [{outcome.claim.name}](#{outcome.claim.name}): {outcome.claim.says} | {_mark(outcome.finding.verdict)} |" for outcome in outcomes),
        "",
    ]
    for outcome in outcomes:
        claim = outcome.claim
        tables = ", ".join(f"[{file.name}]({file.name})" for file in outcome.files if file.suffix == ".csv")
        lines += [
            f"## {claim.name}",
            "",
            f"> {claim.says}",
            "",
            f"**{outcome.finding.verdict.value.capitalize()}.** {' '.join(outcome.finding.sentences)}",
            "",
            f"![{claim.name}]({claim.name}.svg)",
            "",
            f"Theory: {claim.theory}",
            "",
            f"Rule of the verdict: {claim.rule}",
            "",
            f"Tables: {tables}; {outcome.seconds:.0f} s.",
            "",
        ]
    path = Path(directory) / PAGE
    write_text(path, "\n".join(lines))
    return path


def _mark(verdict: Verdict) -> str:
    return f"**{verdict.value}**"
