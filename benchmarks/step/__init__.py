"""Time per training step, by phase: our FGRPO, stock verl's GRPO and TRL's GRPO on one model, one data set and equal settings.

python -m benchmarks.step [steps=6] [repeats=2] [out=benchmarks/results/step.json]
"""
