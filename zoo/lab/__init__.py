"""The lab: what a beginner's text on deep learning claims, measured on real data, with a verdict.

Each claim is one module of `zoo.lab.claims`: what the text says, what theory says, an experiment, a figure, and the rule that
turns the measurements into a verdict. `zoo lab` runs them.
"""

from __future__ import annotations

from zoo.lab.claim import Claim, Finding, Interval, Verdict
from zoo.lab.claims import claim, list_claims
from zoo.lab.laboratory import Laboratory
from zoo.lab.report import Outcome, examine, write_page

__all__ = ["Claim", "Finding", "Interval", "Laboratory", "Outcome", "Verdict", "claim", "examine", "list_claims", "write_page"]
