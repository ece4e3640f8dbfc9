"""Where images come from: each source yields records of the one layout."""
