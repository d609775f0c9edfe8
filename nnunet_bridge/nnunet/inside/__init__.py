"""Code inside nnU-Net's process, beside the trainers; `nnunet.launch` starts it.

These files import torch and nnunetv2; nothing outside that process imports them.
"""
