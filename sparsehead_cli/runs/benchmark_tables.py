"""The tables of `benchmarks/`: their columns beside those of `tables.py`, and which table has which."""

from sparsehead_cli.runs.columns import Column, Table

MACHINE = ("processor", "cores", "threads", "torch", "commit")

BENCHMARK_COLUMNS = {
    "network": Column("text", "", "network of a benchmark"),
    "workload": Column("text", "", "what a benchmark ran"),
    "setting": Column("text", "", "what of it was changed, as in --set"),
    "ratio": Column("amount", "", "speed over that of the workload it was measured beside"),
    "beside": Column("text", "", "the workload that the ratio is to"),
    "gflops": Column("amount", "GFLOP/s", "arithmetic of the workload over its time"),
    "limit": Column("amount", "GFLOP/s", "the same of a product of large matrices, in the same run"),
    "dtype": Column("text", "", "precision of the arithmetic"),
    "processor": Column("text", "", "what the processor calls itself, and the widest arithmetic that PyTorch uses on it"),
    "torch": Column("text", "", "version of PyTorch"),
    "peer": Column("text", "", "library, and its loop, that is compared with ours"),
    "peer_version": Column("text", "", "that library and its version"),
    "cores": Column("whole", "cores", "processors that were used"),
    "versions": Column("text", "", "versions of the libraries that a duration depends on"),
    "threads": Column("whole", "threads", "threads of PyTorch"),
    "workers": Column("whole", "processes", "processes that read images"),
    "measurement": Column("text", "", "name of the number in value"),
    "unit": Column("text", "", "unit of value"),
    "bare_seconds": Column("amount", "s", "forward passes alone"),
    "extraction_seconds": Column("amount", "s", "extraction of the features"),
    "extraction_share": Column("amount", "", "bare_seconds / extraction_seconds"),
    "linear_seconds": Column("amount", "s", "linear evaluation"),
    "knn_seconds": Column("amount", "s", "kNN evaluation"),
    "evaluation_seconds": Column("amount", "s", "extraction, linear and kNN evaluation"),
    "sgd_epochs": Column("whole", "epochs", "epochs of SGD that were timed"),
    "sgd_seconds_of_100_epochs": Column("amount", "s", "what 100 epochs of SGD take"),
    "times_faster": Column("amount", "", "sgd_seconds_of_100_epochs over evaluation_seconds"),
    "megabytes_over_data_and_features": Column("number", "MB", "peak of memory beyond data and features"),
    "linear_r": Column("share", "", "linear evaluation of r"),
    "linear_z": Column("share", "", "linear evaluation of z"),
    "linear_sgd_r": Column("share", "", "linear evaluation of r by SGD"),
    "linear_sgd_z": Column("share", "", "linear evaluation of z by SGD"),
    "bare_alone": Column("amount", "s", "a trial without the suite around it, alone"),
    "bare_beside": Column("amount", "s", "the same beside others"),
    "speed_up": Column("amount", "", "how much faster several beside each other are"),
    "sweep": Column("amount", "s", "a sweep of them"),
    "ideal": Column("amount", "s", "what the sweep would take without any cost of its own"),
    "overhead": Column("amount", "", "sweep / ideal"),
    "trial_share": Column("amount", "", "speed of a trial of a sweep over that of the same run alone"),
    "rows": Column("whole", "images", "rows of the features of a benchmark"),
    "dim": Column("whole", "features", "their width"),
    "moments_seconds": Column("amount", "s", "taking them in"),
    "numbers_and_intervals_seconds": Column("amount", "s", "reading numbers and intervals off them"),
    "invariance_seconds": Column("amount", "s", "LiDAR, alignment and uniformity"),
    "generating_seconds": Column("amount", "s", "making them"),
    "peak_mb": Column("amount", "MB", "peak of memory"),
    "start_mb": Column("amount", "MB", "peak of memory before the work"),
    "true_effective_rank": Column("amount", "dimensions", "of the distribution that they were drawn from"),
    "effective_rank": Column("amount", "dimensions", "as measured; low and high bound it"),
    "rank_low": Column("amount", "dimensions", "lower end of the 95 % interval of effective_rank"),
    "rank_high": Column("amount", "dimensions", "upper end of the 95 % interval of effective_rank"),
    "studies": Column("whole", "", "how many were simulated"),
    "axis": Column("text", "", "what grows in a benchmark"),
    "what": Column("text", "", "the step that was measured as it grows"),
    "size": Column("whole", "", "how much of what axis names"),
    "megabytes": Column("amount", "MB", "peak of memory beyond what the process held before, inputs included"),
    "work": Column("amount", "", "the largest exponent that the work itself has; value is the measured one"),
    "from_size": Column("whole", "", "smallest size that an exponent was fitted to"),
    "to_size": Column("whole", "", "largest size that an exponent was fitted to"),
}

BENCHMARKS = {
    "protocol.csv": Table(
        ("workload", "measurement", "value", "low", "high", "studies", *MACHINE), key=("workload", "measurement")
    ),
    "claims.csv": Table(
        (
            *("experiment", "method", "penalty", "regularisers", "projector", "lam", "measurement", "seeds"),
            *("mean", "reference_mean"),
            *("difference", "difference_low", "difference_high", "p_t", "plan"),
        ),
        usual={"regularisers": "none", "projector": "mlp"},
        key=("method", "regularisers", "projector", "lam", "measurement"),
    ),
    "throughput.csv": Table(
        (
            *("network", "workload", "images_per_second", "ratio", "beside", "gflops", "limit", "dtype"),
            *MACHINE,
        ),
        key=("network", "workload", "commit"),
        renamed={"step": "workload"},
    ),
    "convolution.csv": Table(("network", "setting", "workload", "seconds", "ratio", "dtype", *MACHINE)),
    "peers.csv": Table(
        (
            *("network", "method", "peer", "workload", "images_per_second", "ratio"),
            *("peer_version", "beside"),
            *MACHINE,
        ),
        key=("network", "method", "peer", "workload", "commit"),
    ),
    "speed.csv": Table(
        (
            *("commit", "dataset", "n_train", "n_test", "threads", "bare_seconds", "extraction_seconds", "extraction_share"),
            *("linear_seconds", "knn_seconds", "evaluation_seconds", "sgd_epochs", "sgd_seconds_of_100_epochs", "times_faster"),
            *("megabytes_over_data_and_features", "linear_r", "linear_z", "linear_sgd_r", "linear_sgd_z"),
        ),
        empty=("linear_r", "linear_z", "linear_sgd_r", "linear_sgd_z"),
    ),
    "streaming.csv": Table(
        ("measurement", "epoch", "value", "unit", "images", "workers", "cores", "torch", "commit"), empty=("epoch", "value", "unit")
    ),
    "durations.csv": Table(("measurement", "value", "unit", "versions", *MACHINE)),
    "imagenet.csv": Table(("experiment", "measurement", "value", "unit", *MACHINE), empty=("unit",)),
    "sharding.csv": Table(("workload", "measurement", "value", "unit", *MACHINE), empty=("unit",)),
    "own_images.csv": Table(("measurement", "value", "unit", "cores", "torch", "commit"), empty=("unit",)),
    "memory.csv": Table(
        ("workload", "setting", "peak_mb", "start_mb", "seconds", "ratio", *MACHINE),
        empty=("setting", "start_mb", "ratio"),
    ),
    "overhead.csv": Table(
        ("bare_alone", "bare_beside", "speed_up", "sweep", "ideal", "overhead", "trial_share", "cores", "torch", "commit"),
        added=("trial_share",),
    ),
    "cost.csv": Table(
        (
            *("rows", "dim", "threads", "moments_seconds", "numbers_and_intervals_seconds", "invariance_seconds"),
            *("generating_seconds", "peak_mb", "true_effective_rank", "effective_rank", "rank_low", "rank_high", "commit"),
        ),
        empty=("invariance_seconds", "rank_low", "rank_high"),
        renamed={"low": "rank_low", "high": "rank_high"},
    ),
    "steps.csv": Table(
        ("method", "regularisers", "projector", "lam", "seconds", "ratio", *MACHINE),
        key=("method", "regularisers", "projector", "lam"),
    ),
    "growth.csv": Table(("axis", "what", "size", "seconds", "megabytes", *MACHINE)),
    "exponents.csv": Table(("axis", "what", "measurement", "value", "work", "from_size", "to_size"), empty=("value",)),
}
