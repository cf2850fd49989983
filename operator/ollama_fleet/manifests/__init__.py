"""A plan in, Kubernetes objects (dicts) out. Pure."""
