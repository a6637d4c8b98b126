"""One request: by events, or by arithmetic."""
