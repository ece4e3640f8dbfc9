"""Checkpoints of published code, one file for the code of each paper, as models of this package and back."""
