"""Trainers of our own; nnU-Net finds them through `nnUNet_extTrainer`.

Keep this folder to trainers only: nnU-Net imports every module in it while it looks
for a name, at training and at prediction.
"""
