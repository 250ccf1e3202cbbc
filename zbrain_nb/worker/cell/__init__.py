"""The inside of a cell's process: a forked child of the zygote runs one cell or function as a notebook would.

`runtime` is the way in (`preload` in the zygote, `run` in the child), and `foreign.run` that of a cell in the kernel of
another language. Imports little else of zbrain_nb than `model`, and IPython.
"""
