"""The figure of sequences of tasks."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sparsehead_cli.present.figures import GREY, OKABE_ITO, STYLE


def tasks_figure(matrices: dict[str, list[list[float]]]) -> Figure:
    """R of each setting (a mean over its seeds) as a heat map; below, the mean accuracy on the tasks seen so far."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(6.0, 2.6 * len(matrices)), 5.4), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(1.2, 1))
        low = min(value for matrix in matrices.values() for row in matrix for value in row)
        panels = above.subplots(1, len(matrices), squeeze=False)[0]
        for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
            image = axes.imshow(matrix, cmap="cividis", vmin=low, vmax=1)
            for (i, j), value in np.ndenumerate(matrix):
                colour = "white" if value < (1 + low) / 2 else "black"
                axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=colour)
            tasks = range(1, len(matrix))
            axes.set(title=name, xlabel="accuracy on task", xticks=range(len(tasks)), xticklabels=tasks)
            axes.set(yticks=range(len(matrix)), yticklabels=["untrained", *tasks] if axes is panels[0] else [])
            axes.spines[:].set_visible(False)
        panels[0].set_ylabel("after task")
        above.colorbar(image, ax=list(panels), label="linear accuracy", shrink=0.8)
        axes = below.subplots()
        for (name, matrix), colour in zip(matrices.items(), OKABE_ITO * len(matrices), strict=False):
            seen = [sum(matrix[t][:t]) / t for t in range(1, len(matrix))]
            axes.plot(range(1, len(matrix)), [100 * value for value in seen], "o-", color=colour, label=name)
        axes.set(xlabel="tasks seen", ylabel="mean accuracy on them (%)", xticks=range(1, len(matrix)))
        axes.grid(axis="y", color=GREY, alpha=0.2)
        axes.legend(frameon=False)
    return figure
