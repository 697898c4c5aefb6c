"""Puzzles drawn and described exactly: clocks, mazes, queens, boxes. Each can be asked with its picture or with its description."""
