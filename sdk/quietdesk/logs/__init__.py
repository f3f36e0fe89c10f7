"""Logs: reading conversations that other programs wrote."""
