# Half an hour on a laptop, CPU or Apple GPU: songs of a few million characters.
#
#   python -m backend.scrapers.crawl --source=files --path=my_lyrics --data_dir=data/lyrics
#   python -m backend.data.clean --data_dir=data/lyrics
#   python -m backend.data.binarize --data_dir=data/lyrics
#   python -m backend.training.train config/lyrics_laptop.py
#
# 32 sequences x 256 characters x 1 micro-batch = 8,192 tokens/step; 1,500 steps = 12.3 M tokens.
# At 3,000,000 tokens to train on: 366 steps an epoch, 4.1 epochs. Fewer songs: --dropout=0.1, which
# costs time, and fewer steps (the best is kept in any case). More songs: more steps.
# 6.9 M parameters at a vocabulary of 120, 4.2 M of them the table of pairs, which costs no time.
# Expected: not measured here as a whole; the same parts took a model a quarter as heavy from 1.67
# to 1.55 nats on Shakespeare in equal time. Minutes: 35 on two cores of a server with bf16, from
# 2.8 seconds of one core measured for a step; on a laptop's eight cores fewer, in fp32 twice as
# many, neither measured here.
#
# The parts of `modern` (rotary, qk_norm, relu2, ...) and Muon, which learns more from each song;
# the rate falls straight to zero. One head for every 64 channels.

dataset = "lyrics/char"
out_dir = "out/lyrics"

preset = ("modern",)
block_size = 256
n_layer = 4
n_head = 4
n_embd = 256
dropout = 0.0

tokens_per_step = 8192

optimizer = "muon"
muon_lr = 0.02
learning_rate = 3e-3  # embeddings, pairs and head
schedule = "linear"
min_lr = 0.0
weight_decay = 0.0
max_iters = 1500
warmup_iters = 50

eval_interval = 150
log_interval = 10
