"""What a run says, as people read it: its ranks' logs, its events, the lines on the screen."""
