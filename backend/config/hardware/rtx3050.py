# NVIDIA RTX 3050, 8 GB, and other single cards of its size. Not measured here.
#
#   python -m backend.training.train config/train_darklyrics.py --profile=rtx3050
#
# Ampere has bf16. --memory_gb=4 for the laptop card, --dtype=float16 for a card before Ampere.
# A model that does not fit at one sequence: --activation_checkpointing, a third slower.
device = "cuda"
dtype = "bfloat16"
compile = True
memory_gb = 8.0
parallel = "none"
activation_checkpointing = False
