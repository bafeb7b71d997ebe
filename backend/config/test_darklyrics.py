# A quick look at a DarkLyrics corpus: does everything work before the long run?
#
#   python -m backend.scrapers.crawl --artists "..." "..."
#   python -m backend.data.clean && python -m backend.data.binarize
#   python -m backend.training.train config/test_darklyrics.py
#
# 4 sequences x 256 characters x 1 micro-batch = 1,024 tokens/step; 1,000 steps = 1 M tokens, a
# twentieth of the epoch of ATOM-GPT's corpus. 3.4 M parameters at a vocabulary of 905, theirs.
# Expected: lines and capitals where they belong; no figure was ever published, and none was
# measured here. Minutes: they say 5 to 10 on an RTX 3050; not measured here.
#
# ATOM-GPT's values (nanoGPT's where they said nothing: no biases, exact GELU), but for the
# warm-up: theirs (2,000 steps) was longer than the run, which never reached its learning rate.
# Validation scores every held-out song, so their eval_iters is left out.

dataset = "darklyrics/char"
out_dir = "out/darklyrics-test"

block_size = 256
n_layer = 4
n_head = 4
n_embd = 256
dropout = 0.1
bias = False
activation = "gelu"

tokens_per_step = 1024

learning_rate = 1e-3
min_lr = 1e-4
max_iters = 1000
warmup_iters = 100

eval_interval = 100
log_interval = 5
always_save_checkpoint = False
