# A node of A100s, 40 GB each; the larger cards with --memory_gb=80. Not measured here.
#
#   torchrun --standalone --nproc_per_node=8 -m backend.training.train config/train_gpt2.py
#     --profile=a100_node
#
# ddp: each holds the whole model, up to GPT-2 XL (16 bytes a parameter: 23 GiB). What is larger:
# --parallel=fsdp, then --activation_checkpointing.
device = "cuda"
dtype = "bfloat16"
compile = True
memory_gb = 40.0
parallel = "ddp"
activation_checkpointing = False
