"""Tiny models that real Ollama servers of both generations load: made here, the same bytes every time."""

from testbed.models.catalog import CATALOG, TinyModel, ensure

__all__ = ["CATALOG", "TinyModel", "ensure"]
