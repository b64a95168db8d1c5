"""Other people's checkpoints -> a backbone and a head; no code in a file is ever run."""
