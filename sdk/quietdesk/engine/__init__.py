"""The engine: many conversations on one model, behind one stream each."""
