"""The prompt: the chat template and the window of the context."""
