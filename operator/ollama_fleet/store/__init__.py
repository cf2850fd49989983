"""The model store: registry client, on-disk layout, pulls."""
