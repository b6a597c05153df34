"""The middleware under the real openai client."""
