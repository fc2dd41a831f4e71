"""PID 1: starts the engine, forwards signals, reaps children, and exits with the engine's status.

Standard library only. A short-lived worker process (package ``worker``) does the heavy work; its messages
arrive here as events.
"""
