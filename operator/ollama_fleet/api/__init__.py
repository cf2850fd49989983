"""The vocabulary: custom resources, CRD generation and the wire contracts between roles. Pure."""
