"""Everything asked of an engine: readiness, hooks, canary, presets, handshakes, sleep; with one HTTP client for all."""
