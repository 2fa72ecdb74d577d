"""An experiment, trained.

monitor    what is measured while a model trains: grids, the distance's curve, losses, collapse
trainer    from checkpoint to checkpoint, to the end of the budget; rollbacks after divergence
"""
