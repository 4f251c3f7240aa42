"""Tokens -> what is trained on: prepared once, packed, in an order that a resume goes on with."""
