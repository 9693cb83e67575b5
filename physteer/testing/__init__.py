"""Searches whose answer is known, to test the whole of an analysis on."""
