"""The APIs, each in a package: read (a body to what is wanted), write (what came of it to JSON), routes."""
