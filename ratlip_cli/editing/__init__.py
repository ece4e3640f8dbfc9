"""Changing an image by words: find the noise and the text that generate it, and move the text."""
