"""Section IV-A: captioned pictures, one layout on disk, and the sources that are turned into it."""
