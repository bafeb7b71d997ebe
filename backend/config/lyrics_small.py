# A minute or two on two CPU cores: for a handful of songs, such as the demo songbook.
#
#   make lyrics
#
# or, after python -m backend.data.binarize --data_dir=data/demo,
#
#   python -m backend.training.train config/lyrics_small.py
#
# 8 sequences x 128 characters x 1 micro-batch = 1,024 tokens/step; 800 steps = 0.8 M tokens, with
# 78,000 characters to train on some 10 passes. 0.6 M parameters at a vocabulary of 80 know songs
# that they see so often by heart: dropout is high, there is no table of pairs, and the best step
# on the held-out songs is the one that is kept.
# Expected: 2.51 bits/char on the five held-out songs of the songbook, measured by the road in
# docs/benchmarks.md. Minutes: 2 on two cores.

dataset = "demo/char"
out_dir = "out/demo"

preset = "modern"
bigram = 0  # more rows than the corpus has pairs: it would learn them by heart
block_size = 128
n_layer = 3
n_head = 2
n_embd = 128
dropout = 0.3

tokens_per_step = 1024
batches = "songs"  # a song begins where it begins: it learns how one does

optimizer = "muon"
muon_lr = 0.01
learning_rate = 4e-3
schedule = "linear"
min_lr = 0.0
warmup_iters = 0
max_iters = 800
beta2 = 0.99  # few tokens per step
weight_decay = 0.1
grad_clip = 0.0

eval_interval = 100
log_interval = 20
