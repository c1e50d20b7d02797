"""HTTP: a server that OpenAI's, Anthropic's and Ollama's clients live on. core/ is what its APIs share."""
