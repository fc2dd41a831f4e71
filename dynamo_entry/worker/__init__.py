"""The short-lived process that does the heavy work: create, restore, undo; each reads top to bottom."""
