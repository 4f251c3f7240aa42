"""A run as a person watches it: read from its directory, drawn on a terminal or told line by line, never touched."""
