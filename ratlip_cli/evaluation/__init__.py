"""Scores of images (Section IV-B, IV-C): FID, KID, precision and recall, CLIP score, R-precision."""
