"""The server's reliability at length, as figures: broken requests, swaps, a million requests, kills, ends under load, overload.

    python benchmarks/reliability.py [--scale 1] [--out FILE]

Runs the slow tests of `tests/test_serving_reliability.py`, each of which fails where the server does, and appends what they
measured to `results/reliability.csv`. It takes about ten minutes. `--scale 0.1` does a tenth of everything.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from table import Table

TESTS = Path(__file__).parents[1] / "tests" / "test_serving_reliability.py"
RESULTS = Path(__file__).parent / "results" / "reliability.csv"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="what the numbers of requests, swaps and rounds are multiplied by (default: 1)")
    parser.add_argument("--tests", help="only tests whose name has this in it, as pytest's -k")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the CSV file that rows are appended to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures"
        environment = {**os.environ, "ZOO_RELIABILITY": str(arguments.scale), "ZOO_RELIABILITY_RESULTS": str(path)}
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", str(TESTS), *(["-k", arguments.tests] if arguments.tests else [])]
        status = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL if arguments.scale < 1 else None, check=False).returncode
        table = Table(
            arguments.out, ("test", "figure", "scale"), ("python", "tensorflow", "uvicorn", "commit"), lambda row: f"{row['test']}: {row['figure']}"
        )
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            table.add(**json.loads(line), scale=arguments.scale)
    return status


if __name__ == "__main__":
    sys.exit(main())
