"""What is measured of whose images: a model's samples, or any two sets.

scoring           samples of a model -> record.json and metrics.json, which the stage `fid` writes
model_card        what to know of a generator, in Markdown
cli               the command `python -m pipeline.metrics A B`
compare           two sets -> one record of all metrics
features          features of a set, extracted or from the cache
images  arrays    images from a folder, or from .npy and .npz files
feature_files     features that other tools have saved
statistics        a set of which only the Gaussian is known: pytorch-fid's .npz files
stated            by which network features from files were made, as the files or the caller say
doctor            checks of this installation: `python -m pipeline.metrics doctor`
explain           why a number differs from a published one
"""
