"""From a trained generator to images.

images       seeded latents and labels, uint8 samples, grids and animations
generation   what the generate stage writes
"""
