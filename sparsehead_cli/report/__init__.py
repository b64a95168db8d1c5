"""The page of a study: what its tables say, in one file."""
