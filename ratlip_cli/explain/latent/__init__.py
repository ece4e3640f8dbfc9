"""Latent views (Section IV-D, Fig. 5): real and generated images as vectors."""
