"""Tree search for chains of thought spread over a Ray cluster; the search itself is `data_prep.mcts` and knows no Ray."""
