"""Forecasts: their laws, and their documents."""
