"""Where answers go when not to an HTTP client."""
