"""HTTP: an OpenAI-compatible server. inbound (a request to a plan) and outbound (events to what is sent) are pure."""
