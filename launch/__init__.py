"""muster's planning and launching: everything that happens outside a worker. Never imports torch."""
