"""Start an inference engine, checkpoint it once it is warm, restore it in seconds elsewhere."""

__version__ = "0.1.0"
