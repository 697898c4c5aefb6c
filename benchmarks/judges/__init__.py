"""What the judges cost around their model.

python -m benchmarks.judges [--parts load memory savings modes] [--run-dir DIR] [--model DIR] [--out benchmarks/results/judges.json]
"""
