"""Bodies and headers that no client should send, for every route: `make fuzz`. See __main__.py."""
