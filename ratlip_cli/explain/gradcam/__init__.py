"""Grad-CAM (Section IV-C, Fig. 3): where an image shows a text, and whether the map is right."""
