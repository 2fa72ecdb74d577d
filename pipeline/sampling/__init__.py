"""From a trained generator to images.

images       seeded latents and labels, uint8 samples
pictures     grids and animations of them
shared       samples by several ranks
generation   what the generate stage writes
"""
