"""Speed and cost, each measured beside a peer in one run; results with the machine they came from lie in `benchmarks/results`."""
