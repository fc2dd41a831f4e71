"""PID 1: starts the engine, forwards signals, reaps, exits with the engine's status.

Standard library only. The heavy work is done by a worker process that goes away (``worker`` beside
this package); what it says arrives here as events.
"""
