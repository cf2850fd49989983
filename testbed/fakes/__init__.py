"""Servers that answer as the real ones do and fail when told to."""
