"""Section III of the paper: the model and its losses."""
