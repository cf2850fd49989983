"""Observe, plan, apply: one module per kind."""
