"""The demo model: a tiny gpt-oss, trained by this repository, that really decides. Its skills, its data, its file."""
