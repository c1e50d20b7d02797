"""POST /v1/completions: text or token ids continued as they are, without Harmony, and scored where that is asked."""
