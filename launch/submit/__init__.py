"""A spec becomes a batch job."""
