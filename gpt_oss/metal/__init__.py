"""Where the source document has the tools of the metal layout; the format itself is in gpt_oss/model/metal.py."""
