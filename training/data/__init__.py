"""From documents or files of rows to sequences of tokens."""
