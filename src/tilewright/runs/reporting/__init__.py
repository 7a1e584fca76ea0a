"""The report of a run as one page that a browser shows, from its history to the file."""
