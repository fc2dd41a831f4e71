"""What is asked of an engine: readiness, hooks, canary, presets, handshakes, sleep, and the one HTTP helper for all."""
