"""Remote: a model on a server that speaks OpenAI's API, behind the same stream."""
