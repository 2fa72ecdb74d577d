"""From files to batches.

downloads     archives of named data sets, checked by sha256
folders       a folder of images: files, classes, splits
zips          a zip of images, read in place
pictures      one picture file: decoded within bounds, 8 bits, upright, cropped and resized
raw_files     SVHN, STL-10 and CelebA from their authors' files
stacked       stacked MNIST, whose 1,000 modes are known
source        what a data set is before it is prepared
datasets      DATASETS: named sources of pictures with labels
host_images   images that stay in their file, read batch by batch
batches       batches of prepared images on a device
prepared      a data set as uint8 arrays on disk: written by `prepare`, read by `load_images`
"""
