"""Documents and questions -> rows to train on."""
