"""What every number of spectrum_metrics.csv is: its definition and source, for `sparsehead spectrum --explain`."""

from sparsehead_cli.measure.dimensions import ALPHA_RANGE, COLLAPSED_RANK, COLLAPSED_STD, NUMERICAL, PARTIAL_SHARE, RANKME_EPSILON

READ_SHARE = 0.99  # of the projector's mean squared response: the directions that have it are read
TOLERANCE = 0.01  # by which the loss of a batch may rise when features are left out
LIDAR_DELTA = 1e-4
VIEWED, VIEWS = 1_000, 10  # images, and augmented views of each, for LiDAR, alignment and uniformity
BATCHES, BATCH_SIZE = 20, 128  # batches whose loss is kept with few features, and their images
KEPT = 10_000  # images, at most, whose features are held at once: for the probes, and r for what the head reads

READ, RISE = f"{100 * READ_SHARE:g} %", f"{100 * TOLERANCE:g} %"
SPECTRUM = {
    "dim": "D, the width of the features.",
    "effective_rank": "exp of the entropy of s / Σs. Centred. Roy & Vetterli 2007, on the covariance's eigenvalues.",
    "rankme": f"exp of the entropy of p = σ / Σσ + {RANKME_EPSILON:g}, σ the singular values of F. Not centred. "
    "Garrido et al. 2023.",
    "participation_ratio": "(Σs)² / Σs². Centred.",
    "stable_rank": "Σs / largest s. Centred.",
    "numerical_rank": f"how many s are above {NUMERICAL:g} of the largest. Centred.",
    "dims_90": "the fewest principal directions with 90 % of the variance. Centred.",
    "dims_99": "the fewest principal directions with 99 % of the variance. Centred.",
    "alpha": f"α-ReQ: minus the slope of log s on log index, indices {ALPHA_RANGE[0]} to {ALPHA_RANGE[1]} where s is above "
    "rounding; not a number with fewer than five such. Agrawal et al. 2022. Centred.",
    "variance": "Σs, the total variance. Centred.",
    "std": "mean standard deviation of the l2-normalised features times √D: 1 spread evenly, 0 collapsed. Chen & He 2021.",
    "lidar": "effective rank of Σ_w^(-1/2) Σ_b Σ_w^(-1/2): how images differ in units of how views of an image differ; "
    f"Σ_w has {LIDAR_DELTA:g} added to its diagonal. At most the number of images less one. Thilak et al. 2024.",
    "alignment": "mean squared distance of two views of an image, l2-normalised: 0 where views make no difference. "
    "Wang & Isola 2020.",
    "uniformity": "log of the mean of exp(-2 d²) over pairs of images, l2-normalised: 0 at one point, about -4 spread evenly. "
    "Wang & Isola 2020.",
}
HEAD = {
    "read_dims": f"directions of r with {READ} of the projector's mean squared response E[JᵀJ], J = ∂z/∂r: what it reads.",
    "read_variance_share": "the share of r's variance in those directions.",
    "read_overlap": "how far they are r's own principal directions: mean squared cosine of the two subspaces.",
    "read_overlap_by_chance": "the same for a random subspace: read_dims / D.",
    "functional_features": "the fewest features of r that keep z within 1 % (relative error); an upper bound.",
    "batch_features_min": f"the fewest features of r with which a batch's NT-Xent rises by at most {RISE}, the others replaced by "
    "their mean; an upper bound. The least of all batches.",
    "batch_features_median": "the same, the median of the batches.",
    "batch_features_max": "the same, the most of all batches.",
    "batch_overlap": "how far two batches need the same features: |A ∩ B| / |A ∪ B|, mean over pairs of batches.",
    "batch_overlap_by_chance": "the same for random subsets of those sizes.",
    "probe_r": f"linear evaluation of r, learnt from at most {KEPT:,} training images (or --images), where evaluate takes all: "
    "accuracy on as many test images of the data set, whatever the split, in [0, 1], with the 95 % Wilson interval.",
    "probe_read": "the same of what the projector reads of r.",
    "probe_unread": "the same of what it does not read.",
}
VERDICTS = {
    "fully collapsed": f"effective rank below {COLLAPSED_RANK:g}, or std below {COLLAPSED_STD:g}.",
    "partially collapsed": f"99 % of the variance in fewer than {100 * PARTIAL_SHARE:g} % of the dimensions. For z that may be "
    "what a sparse head is meant to do; for r it is capacity that is not used.",
    "healthy": "neither. It says that dimensions are used, not that they are useful: an untrained network is healthy, too.",
    "too few samples": "not more images (or sentences) than D: they have too few eigenvalues to tell.",
}
INTERVAL = (
    "Intervals of effective_rank and rankme: bootstrap over blocks of images in random order, 95 %, bias taken away: with few "
    "images for their width these ranks come out too low, and the interval then lies above the number."
)
