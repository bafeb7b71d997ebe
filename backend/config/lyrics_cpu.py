# Two minutes on two CPU cores: a small character model from scratch, for corpora of a few hundred
# thousand characters and more. For a handful of songs: lyrics_small.
#
#   python -m backend.data.binarize --data_dir=data/darklyrics
#   python -m backend.training.train config/lyrics_cpu.py --dataset=darklyrics/char
#
# 16 sequences x 128 characters x 1 micro-batch = 2,048 tokens/step; 1,400 steps = 2.9 M tokens. At
# 1,000,000 tokens to train on: 488 steps an epoch, 2.9 epochs. A larger corpus bears more steps.
# 1.2 M parameters at a vocabulary of 67, half of them the table of pairs, which costs no time.
# Blocks as in preset modern, matrices by Muon; three layers, since in so short a time three learn
# more than four (docs/log.md).
# Expected: 1.55 nats, 2.2 bits/char on tinyshakespeare, where nanoGPT's recipe ends at 1.90 in the
# same time, and is passed in a fraction of it (docs/benchmarks.md). Minutes: 2 on two cores with
# bf16, twice that without.

dataset = "darklyrics/char"
out_dir = "out/quick"

preset = "modern"
block_size = 128
n_layer = 3  # in two minutes fewer layers learn more than four do
n_head = 2  # wide heads are cheaper
n_embd = 128

tokens_per_step = 2048

optimizer = "muon"
muon_lr = 0.008
learning_rate = 4e-3
schedule = "linear"
min_lr = 0.0
warmup_iters = 0
max_iters = 1400
beta2 = 0.99  # few tokens per step
weight_decay = 0.1
grad_clip = 0.0

eval_interval = 300
log_interval = 20
