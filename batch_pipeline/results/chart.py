"""A small chart of what a pipeline's last submissions cost, as PNG. Without matplotlib there is none."""

from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO


def can_draw() -> bool:
    """Whether matplotlib is there: ``pip install 'batch-pipeline[chart]'``."""
    return find_spec("matplotlib") is not None


def draw(costs: Sequence[tuple[int, float]]) -> bytes | None:
    """Return bars of USD by submission; None without matplotlib, or with fewer than two."""
    if len(costs) < 2 or not can_draw():
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 1.6), dpi=80, layout="constrained")
    axes = figure.add_subplot()
    places = range(len(costs))
    colors = ["#b9c3d3"] * (len(costs) - 1) + ["#3b5f9c"]
    axes.bar(places, [usd for _, usd in costs], color=colors, width=0.7)
    axes.set_xticks(places, [str(number) for number, _ in costs], fontsize=7)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_title("USD by submission", fontsize=8, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    image = BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()
