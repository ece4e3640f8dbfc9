"""Section IV-B: training, its checkpoints and its run folder."""
