"""A policy as a handful of numbers, to see in seconds what multipliers, thresholds and paces do. Not a prediction of a training run."""
