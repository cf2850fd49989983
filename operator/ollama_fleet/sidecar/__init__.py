"""The door of an Ollama pod: allow-list, slots, warm-up, canary, drain, readiness."""
