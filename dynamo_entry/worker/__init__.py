"""The short-lived process that does the heavy work. Each verb is a module that reads from top to bottom."""
