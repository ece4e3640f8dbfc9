"""Pages for people: the report of a run, a sweep or a model as one file, and the playground."""
