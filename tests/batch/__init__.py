"""Tests of the batch queue."""
