"""The figure of sequences of tasks."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sparsehead_cli.present.figures import GREY, OKABE_ITO, STYLE


def tasks_figure(matrices: dict[str, list[list[float]]]) -> Figure:
    """R of each setting (a mean over its seeds) as a heat map; below, the mean accuracy on the tasks seen so far."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * max(2, len(matrices)), 5.2), layout="constrained")
        top = figure.subplots(2, max(1, len(matrices)), squeeze=False)
        low = min(value for matrix in matrices.values() for row in matrix for value in row)
        for axes, (name, matrix) in zip(top[0], matrices.items(), strict=True):
            image = axes.imshow(matrix, cmap="cividis", vmin=low, vmax=1)
            for (i, j), value in np.ndenumerate(matrix):
                colour = "white" if value < (1 + low) / 2 else "black"
                axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=colour)
            axes.set(title=name, xlabel="accuracy on task", xticks=range(len(matrix) - 1), xticklabels=range(1, len(matrix)))
            axes.set(yticks=range(len(matrix)), yticklabels=["untrained", *range(1, len(matrix))])
            axes.spines[:].set_visible(False)
        top[0][0].set_ylabel("after task")
        figure.colorbar(image, ax=list(top[0]), label="linear accuracy", shrink=0.8)
        for axes in top[1]:
            axes.remove()
        below = figure.add_subplot(2, 1, 2)
        for (name, matrix), colour in zip(matrices.items(), OKABE_ITO * len(matrices), strict=False):
            seen = [sum(matrix[t][:t]) / t for t in range(1, len(matrix))]
            below.plot(range(1, len(matrix)), [100 * value for value in seen], "o-", color=colour, label=name)
        below.set(xlabel="tasks seen", ylabel="mean accuracy on them (%)", xticks=range(1, len(matrix)))
        below.grid(axis="y", color=GREY, alpha=0.2)
        below.legend(frameon=False)
    return figure
