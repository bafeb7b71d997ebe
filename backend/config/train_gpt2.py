# GPT-2 small from scratch on OpenWebText, as nanoGPT trains it.
#
#   python -m backend.data.corpora --corpus=openwebtext --tokenizer=gpt2
#   torchrun --standalone --nproc_per_node=8 -m backend.training.train config/train_gpt2.py
#     --profile=a100_node
#
# 12 sequences x 1,024 tokens x 40 micro-batches = 491,520 tokens/step; 600,000 steps = 294,912 M
# tokens. 9,035,582,198 tokens to train on: 18,383 steps an epoch, 32.6 epochs.
# 124.3 M parameters (vocabulary of 50,257; no biases, so 0.1 M fewer than GPT-2 itself).
# Expected: about 2.85 nats (nanoGPT's README); not measured here. Minutes: about 5,800, 4 days, on
# 8 A100s of 40 GB (the same); not measured here.
#
# nanoGPT's values. Validation scores the whole split, 4.4 M tokens, where nanoGPT drew 200 random
# batches. homomorphic-attention's train_gpt2 is this with --attn_type=GK --bias=True
# --warmup_iters=500.

dataset = "openwebtext/gpt2"
out_dir = "out/gpt2"

block_size = 1024
n_layer = 12
n_head = 12
n_embd = 768
bias = False
activation = "gelu"

tokens_per_step = 491_520

learning_rate = 6e-4
min_lr = 6e-5
max_iters = 600_000
warmup_iters = 2000

eval_interval = 1000
log_interval = 10
