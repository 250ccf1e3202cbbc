"""The inside of a cell's process: a forked child of the zygote runs one cell or function as a notebook would.

`runtime` is the way in (`preload` in the zygote, `run` in the child). Imports `zbrain_nb.model` and IPython,
nothing else of zbrain_nb.
"""
