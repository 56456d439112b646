"""Text files that people write: decoded, read as YAML or JSON by one reader each, or refused in one line."""
