"""Schema: a JSON schema as a grammar that every reply has to keep to."""
