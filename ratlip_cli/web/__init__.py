"""Pages for a browser: `report.py` makes one HTML file of what a run, a sweep or a model left behind."""
