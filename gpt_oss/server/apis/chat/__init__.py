"""Chat Completions, OpenAI's older API."""
