"""llama.cpp: its low-level API behind the Runner seam; nothing else in the engine imports it."""
