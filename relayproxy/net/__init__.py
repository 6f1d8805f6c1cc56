"""Sockets under trio: streams with deadlines, listeners, dialling."""
