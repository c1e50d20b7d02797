"""What every API shares: what is asked, its tools, the parts of an answer, streams, errors. No JSON of any API."""
