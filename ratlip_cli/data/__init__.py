"""Section IV-A: captioned images, one layout on disk, and the sources that are turned into it."""
