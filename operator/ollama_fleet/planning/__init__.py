"""Specs and observations in, a plan out: groups, environment, actions and status. Pure."""
