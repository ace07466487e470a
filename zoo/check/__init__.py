"""A linter that predicts what TF Serving would do with a SavedModel or a repository of them."""

from __future__ import annotations

from zoo.check.repository import check as check
from zoo.check.rules import ERROR as ERROR
from zoo.check.rules import NOTE as NOTE
from zoo.check.rules import RULES as RULES
from zoo.check.rules import WARNING as WARNING
from zoo.check.rules import Finding as Finding
from zoo.check.rules import Rule as Rule
