"""Faithful GRPO on verl: constrained reinforcement learning of reasoning that entails its answers and describes its images."""

__version__ = "0.1.0"
