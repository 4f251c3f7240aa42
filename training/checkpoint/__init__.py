"""Everything that a run goes on from: as tensors, as files, as directories that are whole or not there."""
