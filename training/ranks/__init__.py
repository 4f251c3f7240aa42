"""Many processes as one run: the process group and the engine, what all agree on, all nodes compared."""
