"""Workers: the processes that train and measure the trials of a study.

trial      one trial: a recipe trained and measured, pruned on the way
worker     what each process does until the queue is empty
processes  workers on this machine
cluster    workers on a Ray cluster
"""
