"""Chains of thought by Monte Carlo tree search: a teacher writes steps, exact answers say which branches are right."""
