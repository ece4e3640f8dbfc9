"""What networks are trained for: one file an objective, each of which reads like its paper's equations."""
