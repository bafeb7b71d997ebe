# ATOM-GPT's model for metal lyrics, 25.6 M parameters, on a corpus from DarkLyrics.
#
#   python -m backend.scrapers.crawl --artists "..." "..."
#   python -m backend.data.clean && python -m backend.data.binarize
#   python -m backend.training.train config/train_darklyrics.py --profile=rtx3050
#
# 8 sequences x 512 characters x 4 micro-batches = 16,384 tokens/step; 10,000 steps = 164 M tokens.
# Their warm-up was left at 2,000 steps, a fifth of the run; 500 is plenty here.

dataset = "darklyrics/char"
out_dir = "out/darklyrics"

block_size = 512
n_layer = 8
n_head = 8
n_embd = 512
dropout = 0.1

tokens_per_step = 16_384

learning_rate = 3e-4
min_lr = 3e-5
max_iters = 10_000
warmup_iters = 500

eval_interval = 500
log_interval = 10
