"""The trainings of a comparison side by side, each on a GPU of its own or on its share of the cores.

plan         what to train, longest first: what DVC would run, without what is finished already
processes    processes with their share of the machine, and how they end
table        a line for each training: state, step, speed, distance
run          all of them, from where they are to their end

Each training is the stage train as DVC runs it, but started here. It leaves its checkpoint and its files in .work/;
under `dvc repro` the stage only copies them to runs/. The command is `python -m pipeline.jobs`.
"""
