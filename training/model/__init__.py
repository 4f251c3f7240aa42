"""The frozen base, its adapter, the operations that make them fast, and the batches that they take."""
