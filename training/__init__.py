"""What runs inside each worker. Importing this package imports nothing else; its modules import torch."""
