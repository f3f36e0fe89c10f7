"""The store: where conversations are kept."""
