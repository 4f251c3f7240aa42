"""The commands, a module each, and below them what several have in common (options, resolving, checking) or is shown
of a model or of data (model_screen, data_screen)."""
