"""What can be said of a model without opening its weights: shapes, files, versions, where an adapter goes."""
