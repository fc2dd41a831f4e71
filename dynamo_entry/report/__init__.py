"""What the launcher says: log lines (lines) and the result object (status)."""
