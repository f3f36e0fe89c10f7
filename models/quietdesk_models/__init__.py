"""The model catalogue and the weights."""
