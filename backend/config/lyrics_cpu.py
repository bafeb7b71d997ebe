# Two minutes on two CPU cores: a small character model from scratch, for a first look at any
# corpus.
#
#   python -m backend.training.train config/lyrics_cpu.py --dataset=demo/char --out_dir=out/demo
#
# 8 sequences x 128 characters = 1,024 tokens/step. The demo songbook has about 30,000 tokens to
# train on, so an epoch is 30 steps and the run 40 epochs, 1.2 M tokens. 1.4 M parameters know
# such a corpus by heart after that; the best step on the held-out songs is the one that is kept.
# What to expect is in docs/benchmarks.md. On a larger corpus raise max_iters: a million
# characters bear 10,000 steps.

dataset = "demo/char"
out_dir = "out/demo"

block_size = 128
n_layer = 3
n_head = 4
n_embd = 192
dropout = 0.1

tokens_per_step = 1024

learning_rate = 6e-3  # small models take, and need, large ones: 2e-3 ends 0.3 bits higher
min_lr = 2e-4
max_iters = 1200
warmup_iters = 50
beta2 = 0.99  # few tokens per step

eval_interval = 100
log_interval = 20
