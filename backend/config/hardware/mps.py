# An Apple GPU. Not measured here.
#
#   python -m backend.training.train config/lyrics_laptop.py --profile=mps
#
# fp32: half precision gave NaN there (nanoGPT issues 136, 167), and there is no gradient scaler.
# memory_gb is the half of a 16 GB machine.
device = "mps"
dtype = "float32"
compile = False
memory_gb = 8.0
parallel = "none"  # one GPU, and torch.distributed knows none of its kind
activation_checkpointing = False
