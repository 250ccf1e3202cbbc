"""JupyterHub: the service's side (who asks, by the Hub), and the side of each user's own server (the way to it)."""
