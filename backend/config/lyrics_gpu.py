# An evening on one GPU of 8 GB or more: songs of some ten million characters.
#
#   python -m backend.scrapers.crawl --source=files --path=my_lyrics --data_dir=data/lyrics
#   python -m backend.data.clean --data_dir=data/lyrics
#   python -m backend.data.binarize --data_dir=data/lyrics
#   python -m backend.training.train config/lyrics_gpu.py --profile=rtx3050
#
# 8 sequences x 1,024 characters x 8 micro-batches = 65,536 tokens/step; 3,000 steps = 197 M tokens.
# At 20,000,000 tokens to train on: 305 steps an epoch, 9.8 epochs. A block holds most songs whole.
# 32.7 M parameters at a vocabulary of 120, 8.4 M of them the table of pairs.
# Expected: not measured here. Minutes: not measured here; a step is 13 TFLOP, so 3,000 of them are
# about 2 hours at 5 TFLOP/s, a guess for an RTX 3050, and 6 minutes at 100, a guess for an H100.
#
# The parts of `modern` (rotary, qk_norm, relu2, ...) and Muon. wsd: the rate stays up and falls to
# zero in the last fifth, so a longer run is the same run until then: resume a checkpoint from
# before the fall with a larger max_iters.

dataset = "lyrics/char"
out_dir = "out/lyrics-gpu"

preset = ("modern",)
block_size = 1024
n_layer = 8
n_head = 8
n_embd = 512
dropout = 0.1

tokens_per_step = 65_536

optimizer = "muon"
muon_lr = 0.02
learning_rate = 3e-3  # embeddings, pairs and head
schedule = "wsd"
cooldown = 0.2
min_lr = 0.0
max_iters = 3000
warmup_iters = 100

eval_interval = 250
log_interval = 10
