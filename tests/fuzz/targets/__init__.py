"""One module a parser: SEEDS, REFUSALS, feed."""
