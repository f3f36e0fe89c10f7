"""States: what a model has read of a conversation, kept on disk."""
