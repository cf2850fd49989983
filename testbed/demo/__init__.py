"""The demo: a local Kubernetes, the operator from its chart, and a model that answers."""
