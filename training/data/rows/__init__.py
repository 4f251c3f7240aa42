"""Files of rows -> samples: sources, formats, and what is wrong with a row at its place."""
