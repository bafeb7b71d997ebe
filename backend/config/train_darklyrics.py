# ATOM-GPT's model for metal lyrics, on a corpus from DarkLyrics.
#
#   python -m backend.scrapers.crawl --artists "..." "..."
#   python -m backend.data.clean && python -m backend.data.binarize
#   python -m backend.training.train config/train_darklyrics.py --profile=rtx3050
#
# 8 sequences x 512 characters x 4 micro-batches = 16,384 tokens/step; 10,000 steps = 164 M tokens.
# Theirs were 18.4 M characters to train on: 1,123 steps an epoch, 9 epochs. 25.9 M parameters at
# a vocabulary of 905, theirs; they counted 25.6, without the table of positions.
# Expected: they name 1.5 to 2.0 nats (2.2 to 2.9 bits/char) as good and measured nothing; not
# measured here. Minutes: they say 4 to 8 hours on an RTX 3050; not measured here.
#
# Their values (nanoGPT's where they said nothing: no biases, exact GELU), but for the warm-up:
# left at 2,000 steps it was a fifth of the run; 500 is plenty here. Validation scores every
# held-out song, so their eval_iters, the number of random batches, is left out.

dataset = "darklyrics/char"
out_dir = "out/darklyrics"

block_size = 512
n_layer = 8
n_head = 8
n_embd = 512
dropout = 0.1
bias = False
activation = "gelu"

tokens_per_step = 16_384

learning_rate = 3e-4
min_lr = 3e-5
max_iters = 10_000
warmup_iters = 500

eval_interval = 500
log_interval = 10
