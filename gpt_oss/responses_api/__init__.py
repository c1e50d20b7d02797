"""The source document's name of the server."""
