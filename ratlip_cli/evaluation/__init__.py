"""Scores of images (Section IV-B, IV-C): FID, KID, precision and recall, CLIP score, R-precision.

In reading order: `request`, what can be asked; `images` and `inputs`, what is scored; `networks` and `extract`, their
features; `statistics` of them; `metrics`, the table by key; `run`, the one call and its result.
"""
