"""Self-supervised objectives: pure functions of float32 embeddings, each in its paper's symbols. Nothing but mathematics.

A module a kind; all their functions go by `losses.NAME` as well. Every function reads the whole joined batch. Stop-gradients are
part of an objective and stand here. Functions that return a dict beside the loss name its terms, unweighted.
"""

from sparsehead_cli.ssl.losses.contrastive import *
from sparsehead_cli.ssl.losses.decorrelation import *
from sparsehead_cli.ssl.losses.generative import *
from sparsehead_cli.ssl.losses.prediction import *
from sparsehead_cli.ssl.losses.prototypes import *
from sparsehead_cli.ssl.losses.whitening import *
