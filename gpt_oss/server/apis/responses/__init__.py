"""POST /v1/responses: inbound.py and outbound.py are pure, routes.py joins them."""
