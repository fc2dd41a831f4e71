"""The messy engine: see __main__.py."""
