"""A run, or several, as one page: reading.py reads run directories, curves.py and facts.py say what is in them, page.py
writes HTML."""
