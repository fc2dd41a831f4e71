"""What is asked of an engine: readiness, hooks, canary, presets, protocols, and the one HTTP helper for all."""
