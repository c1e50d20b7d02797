"""gpt-oss on hardware of your own: inference, Harmony, tools and serving."""

__version__ = "0.1.0"
