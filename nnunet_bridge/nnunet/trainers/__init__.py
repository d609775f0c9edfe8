"""Trainers of our own; nnU-Net finds them through `nnUNet_extTrainer`.

One file for each idea, with its source and its settings. Keep this folder to trainers
and what they are made of: nnU-Net imports every module in it while it looks for a name,
at training and at prediction, so no module may do anything when it is imported, nor
import what is slow.
"""
