"""Tests of cost gates."""
