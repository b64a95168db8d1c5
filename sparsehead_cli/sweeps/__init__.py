"""Many runs: the grid, a trial, the engines that run trials, stopping early."""
