"""How figures look, and how they are written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import MissingExtraError
from zoo.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Distinguishable with every common colour vision deficiency (Okabe and Ito, 2008).
BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00", "#777777"
SIZE = (9.0, 3.6)


def save_figure(draw: Callable[[Figure], None], path: Path, size: tuple[float, float] = SIZE) -> list[Path]:
    """Draws a figure and writes it as SVG and as PNG; the same drawing gives the same SVG, byte for byte.

    Args:
        draw: Gets an empty figure.
        path: Without a suffix.
        size: Width and height in inches.

    Returns:
        The two files.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("Figures need matplotlib: pip install 'neuron-zoo[plot]'") from None
    settings: Any = {
        "svg.hashsalt": "neuron-zoo",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pyparsing")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        files = [path.with_name(f"{path.name}.{kind}") for kind in ("svg", "png")]
        for file in files:
            with atomic_file(file) as temporary:
                metadata = {"Date": None} if file.suffix == ".svg" else None
                figure.savefig(temporary, format=file.suffix[1:], dpi=120, metadata=metadata, facecolor="white")
    return files
