"""Ollama Fleet Operator: fleets of Ollama servers, declared as custom resources."""

__version__ = "0.1.0"
