"""What every worker needs, loaded once and inherited by all where processes can be forked; it is imported for that alone."""

from __future__ import annotations

from zoo.console import load_backend

load_backend()

import tuning.engine  # noqa: E402
import tuning.study  # noqa: E402, F401
