"""The short-lived process that does the heavy work: one module a verb, which reads top to bottom."""
