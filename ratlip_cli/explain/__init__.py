"""What a model does, in images and in numbers: Grad-CAM (Section IV-C, Fig. 3) and latent views (IV-D, Fig. 5)."""
