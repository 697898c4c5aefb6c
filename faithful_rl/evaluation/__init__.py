"""Evaluation of a model on benchmarks: accuracy, inconsistency and grounding side by side, each with its interval and its coverage.

`python -m faithful_rl.evaluate` is the command. Held-out evaluation inside a training run is `faithful_rl.verl_plugin.heldout`; both use
the same parser, judges, signals and statistics.
"""
