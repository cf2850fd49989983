"""kubectl-ollama: what people run."""
