"""Which rows of the pools are worth training on: no duplicates, no benchmark items, neither trivial nor hopeless, spread over topics."""
