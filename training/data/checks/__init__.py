"""What is wrong with rows beyond their form: contradictions, secrets, personal data, duplicates, leakage."""
