"""The server room: the host (the queue's process), its handlers, and Jupyter's side with the relay to it."""
