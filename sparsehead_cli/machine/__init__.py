"""What a process stands on: files that are never half-written, processes that share a run, signals, streams, memory."""
