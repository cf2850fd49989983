"""Ollama images."""
