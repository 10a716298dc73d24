"""Parts of the pruning benchmark (`benchmarks/aap.py`)."""
