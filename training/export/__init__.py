"""An adapter for others to use: by itself, or merged into its base."""
