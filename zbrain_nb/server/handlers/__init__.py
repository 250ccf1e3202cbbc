"""The host's routes. Handlers are thin: they check, call the queue, and write what it says."""
