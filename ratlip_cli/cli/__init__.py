"""The command line: parses, calls one function, draws. The only room that imports typer and rich, and that prints."""
