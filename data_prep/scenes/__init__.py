"""Synthetic spatial scenes: coloured shapes on a gradient, questions about them, and the exact truth in every row."""
