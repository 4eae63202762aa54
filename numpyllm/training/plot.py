"""A picture of a run: loss, learning rate and gradient norm over the steps (extra `plots`)."""

from ..extras import load_extra

PANELS = {"loss (nats per token)": ("train/loss", "val/loss"), "learning rate": ("train/lr",),
          "gradient norm": ("train/grad_norm",)}


def plot_metrics(metrics, path):
    """Draw the lines of a metrics file into a PNG. Raises InputError if matplotlib is missing."""
    figure_module = load_extra("matplotlib.figure", "plots")
    figure = figure_module.Figure(figsize=(7, 8), layout="constrained")
    panels = figure.subplots(len(PANELS), 1, sharex=True)
    for axes, (title, keys) in zip(panels, PANELS.items(), strict=True):
        for key in keys:
            points = [(line["step"], line[key]) for line in metrics if key in line]
            axes.plot(*zip(*points), label=key, marker="o" if len(points) < 20 else None, markersize=3, linewidth=1)
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    panels[-1].set_xlabel("step")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=120)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
