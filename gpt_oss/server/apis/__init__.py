"""The APIs. Each reads a body into an Ask (read.py), writes the parts of an answer (write.py), and has its routes."""
