"""CORA's consistency reward model (arXiv 2606.14691): a cross-encoder that says how likely a reasoning entails its answer.

    python -m faithful_rl.main recipe=crm_tiny            trains it
    python -m faithful_rl.crm pairs data=FILE out=FILE    makes its training pairs from rollouts
    backend: classifier                                   serves it as a judge of a pool

Premise: question and thinking. Hypothesis: "The final answer is {a}". `model` and `training` alone know torch and transformers.
"""
