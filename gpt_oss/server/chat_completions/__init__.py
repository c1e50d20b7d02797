"""POST /v1/chat/completions: inbound.py and outbound.py are pure, routes.py joins them."""
