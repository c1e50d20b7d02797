"""What the APIs have in common, and none of their shapes."""
