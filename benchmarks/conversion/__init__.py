"""Parts of the conversion benchmark (`benchmarks/conversions.py`)."""
