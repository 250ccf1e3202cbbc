"""The notebook room: the magic, what it ships, and the live view. Loaded by ``%load_ext zbrain_nb``."""
