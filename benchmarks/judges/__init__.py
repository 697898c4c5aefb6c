"""What the judges cost around their model: `python -m benchmarks.judges --help`."""
