"""The client room: `connect`, `Client` and `JobHandle` for users; the worker and the command line stand on it too."""
