"""An experiment, trained.

monitor    what is measured while a model trains: grids, the distance's curve, losses, collapse
finished   the files of a finished training, kept, and handed over without building anything
trainer    from checkpoint to checkpoint, to the end of the budget; rollbacks after divergence
"""
