"""Validate, then time, against peers where they are installed."""
